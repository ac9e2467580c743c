package bundle

// Files that describe a bundle and are not part of it: a machine needs none of
// them, and the manifest names none. A signature names those that were there.
const (
	ProvenanceFile = "provenance.json"      // how it was made, package attest
	EnvelopeFile   = "provenance.dsse.json" // the same, signed for other programs
	SPDXFile       = "sbom.spdx.json"       // what is in it, package sbom
	CycloneDXFile  = "sbom.cdx.json"        // the same in another format
	// LicenseTextsFile has the texts of the licences of what it is made of, and
	// LicensesFile says for programs whose they are; package licenses.
	LicenseTextsFile = "licenses.txt"
	LicensesFile     = "licenses.json"
)

// MaxDescription bounds each of them, in bytes.
const MaxDescription = 32 << 20

// Descriptions are the names of those files, sorted.
func Descriptions() []string {
	return []string{LicenseTextsFile, LicensesFile, EnvelopeFile, ProvenanceFile, CycloneDXFile, SPDXFile}
}
