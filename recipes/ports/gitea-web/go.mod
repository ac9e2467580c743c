// A wrapper that pins Gitea's own source, where the web interface's is; what its
// programs are compiled with is pinned beside the port gitea.
module sovereign.invalid/ports/gitea-web

go 1.26.6

require gitea.dev v1.27.3

// The module's own path has no server that the module proxy could ask; the
// same modules are served under these names.
replace gitea.dev => code.gitea.io/gitea v1.27.3

replace gitea.dev/actions-proto-go => code.gitea.io/actions-proto-go v0.6.0

replace gitea.dev/sdk => code.gitea.io/sdk v1.2.0
