package sbom

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/bundle"
)

// Form is the version of what a bill of materials says: programs of the same
// form make the same bytes of a bundle, and those of another may not. It stands
// in both formats as the version of the tool. Whoever changes what is said, or
// in which words, counts it up.
const Form = 2

// tool is the name that the documents have for what made them.
const tool = "sovereign-build"

// FormOf is the form of a document in either format; 0 is none of ours.
func FormOf(text []byte) int {
	var doc struct {
		CreationInfo struct {
			Creators []string `json:"creators"`
		} `json:"creationInfo"`
		Metadata struct {
			Tools cdxTools `json:"tools"`
		} `json:"metadata"`
	}
	if json.Unmarshal(text, &doc) != nil {
		return 0
	}
	var said string
	for _, c := range doc.CreationInfo.Creators {
		if v, ok := strings.CutPrefix(c, "Tool: "+tool+"-"); ok {
			said = v
		}
	}
	for _, c := range doc.Metadata.Tools.Components {
		if c.Name == tool {
			said = c.Version
		}
	}
	n, err := strconv.Atoi(said)
	if err != nil || n < 1 {
		return 0
	}
	return n
}

// File is a bill in one format, under the name that it has beside a bundle.
type File struct {
	Name string
	Text []byte
}

// Files are the bill in each format.
func (b *Bill) Files() ([]File, error) {
	spdx, err := b.SPDX()
	if err != nil {
		return nil, err
	}
	cyclonedx, err := b.CycloneDX()
	if err != nil {
		return nil, err
	}
	return []File{{bundle.SPDXFile, spdx}, {bundle.CycloneDXFile, cyclonedx}}, nil
}
