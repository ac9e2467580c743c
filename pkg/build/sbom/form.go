package sbom

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Form is the version of what a bill of materials says: programs of the same
// form make the same bytes of a bundle, and those of another may not. It stands
// in both formats as the version of the tool. Whoever changes what is said, or
// in which words, counts it up.
const Form = 1

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
