#!/bin/sh -eu
# gitea: the forge as one static Go program, with templates, translations and
# the web interface (gitea-web, built once for all architectures) inside it. The
# module's version is pinned by go.mod beside this file.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

module=code.gitea.io/gitea
grep -q "=> $module v$VERSION\$" "$PORT/go.mod" || die "go.mod does not have $module v$VERSION, the port's version"

export GOCACHE="$WORK/gocache" GOMODCACHE="$WORK/gomodcache" GOFLAGS="-mod=readonly -trimpath -modcacherw"
# What is embedded lies in the module's own directories: it is compiled from a
# copy. The path is relative, as it can be read in the program.
mkdir "$WORK/build"
cp "$PORT/go.mod" "$PORT/go.sum" "$WORK/build/"
cd "$WORK/build"
go mod download "$module@v$VERSION"
cp -R --no-preserve=mode,ownership "$GOMODCACHE/$module@v$VERSION" gitea
cp -R "$SYSROOT/usr/share/gitea-web/." gitea/public/assets/
# The wrapper, not the source, says which modules it is compiled with.
go mod edit -replace gitea.dev=./gitea

# Compressed and put into one file each by a program of the module's own.
GOOS=linux GOARCH=amd64 go build -o "$WORK/bindata" gitea/build/generate-bindata.go
"$WORK/bindata" gitea/public gitea/modules/public/bindata.dat
"$WORK/bindata" gitea/options gitea/modules/options/bindata.dat
"$WORK/bindata" gitea/templates gitea/modules/templates/bindata.dat
"$WORK/bindata" gitea/modules/migration/schemas gitea/modules/migration/bindata.dat

# So that "gitea admin" finds its settings where a service put them.
settings="-X gitea.dev/modules/setting.AppWorkPath=/data/gitea -X gitea.dev/modules/setting.CustomConf=/run/gitea/app.ini"
GOOS=linux GOARCH=$GOARCH CGO_ENABLED=0 go build -p "$JOBS" -buildvcs=false -tags bindata \
	-ldflags "-s -w -buildid= -X main.Version=$VERSION -X main.Tags=bindata $settings" \
	-o "$OUT/usr/bin/gitea" gitea.dev
