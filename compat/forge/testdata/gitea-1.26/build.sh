#!/bin/sh -eu
# gitea, the version before the recipe's: what a forge is updated from. Without
# the web interface, which the test of an update does not need.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

module=code.gitea.io/gitea
grep -q "$module v$VERSION " "$PORT/go.mod" || die "go.mod does not have $module v$VERSION, the port's version"

export GOCACHE="$WORK/gocache" GOMODCACHE="$WORK/gomodcache" GOFLAGS="-mod=readonly -trimpath -modcacherw"
mkdir "$WORK/build"
cp "$PORT/go.mod" "$PORT/go.sum" "$WORK/build/"
cd "$WORK/build"
go mod download "$module@v$VERSION"
cp -R --no-preserve=mode,ownership "$GOMODCACHE/$module@v$VERSION" gitea
go mod edit -replace $module=./gitea

GOOS=linux GOARCH=amd64 go build -o "$WORK/bindata" gitea/build/generate-bindata.go
"$WORK/bindata" gitea/public gitea/modules/public/bindata.dat
"$WORK/bindata" gitea/options gitea/modules/options/bindata.dat
"$WORK/bindata" gitea/templates gitea/modules/templates/bindata.dat
"$WORK/bindata" gitea/modules/migration/schemas gitea/modules/migration/bindata.dat

settings="-X $module/modules/setting.AppWorkPath=/data/gitea -X $module/modules/setting.CustomConf=/run/gitea/app.ini"
GOOS=linux GOARCH=$GOARCH CGO_ENABLED=0 go build -p "$JOBS" -buildvcs=false -tags bindata \
	-ldflags "-s -w -buildid= -X main.Version=$VERSION -X main.Tags=bindata $settings" \
	-o "$OUT/usr/bin/gitea" $module
