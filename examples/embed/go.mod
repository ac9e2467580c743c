module example.org/embed

go 1.26.8

replace github.com/sovereign-build/sovereign => ../..
