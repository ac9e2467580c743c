package app

// oldLinks is a call that this architecture does not have.
var oldLinks []uint32
