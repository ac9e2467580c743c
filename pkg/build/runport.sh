# Runs a port's build.sh in a step: inputs come in under /in and /src, the
# result goes out in /out. Run by /bin/sh -eu in an empty /work.
mkdir -p /port /toolchain /sysroot
tar -xf /in/port.tar -C /port
tar -xf /in/toolchain.tar -C /toolchain
# An apk is three gzip members that make one tar; its checksums are PAX records
# tar does not know, and its signature and .PKGINFO are not part of a sysroot.
for apk in /in/sysroot/*.apk; do
	[ -e "$apk" ] || continue
	tar -xzf "$apk" -C /sysroot --warning=no-unknown-keyword --exclude='.SIGN.*' --exclude=.PKGINFO
done
if [ -e /in/go.tar ]; then
	mkdir -p /go /gomod
	tar -xf /in/go.tar -C /go
	tar -xf /in/gomod.tar -C /gomod
	export GOROOT=/go PATH="/go/bin:$PATH" GOPROXY=file:///gomod/cache/download
	export GOPATH=/tmp/gopath GOCACHE=/tmp/gocache GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=0
	# The closure was checked against go.sum when it was fetched, and go checks
	# it again; the public checksum database is out of reach and not needed.
	export GONOSUMDB='*' GOFLAGS='-trimpath -mod=readonly -buildvcs=false' GOOS=linux
fi
if [ -e /in/sovereign.tar ]; then
	mkdir -p /src/sovereign
	tar -xf /in/sovereign.tar -C /src/sovereign
fi
JOBS=$(nproc)
export JOBS
. /toolchain/prelude.sh
. /port/build.sh
