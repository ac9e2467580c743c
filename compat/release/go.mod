module github.com/sovereign-build/sovereign/compat/release

go 1.26.8

replace github.com/sovereign-build/sovereign => ../..
