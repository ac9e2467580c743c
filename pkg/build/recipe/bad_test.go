package recipe

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Each case replaces old by new in a good recipe; DIR in the wanted message
// stands for the recipe's directory.
func TestBadRecipe(t *testing.T) {
	tests := []struct{ name, old, new, want string }{
		// The form of the file.
		{"unknown key", "packages:\n", "pakages:\n", `18:1: unknown key "pakages", did you mean "packages"?`},
		{"unknown key below", "    starting: [1]", "    startng: [1]", `66:7: unknown key "startng", did you mean "starting"?`},
		{"unknown key, nothing near", "summary: A web server for the tests", "summary: x\nfrobnicate: 1", `5:1: unknown key "frobnicate", known are actions, architectures, cache, files, include, kernel, keys, name, packages, ports, release, repositories, root, schema, services, sources, summary, toolchain, trust, users, vm`},
		{"missing key", "name: demo\n", "", `2:1: key "name" is missing at the top of the file`},
		{"missing key below", "  memory: 512MiB\n", "", `38:3: key "memory" is missing in vm`},
		{"key twice", "name: demo\n", "name: demo\nname: other\n", `4:1: key "name" is given twice, first in line 3`},
		{"number for text", "name: demo", "name: 17", `3:7: name is a number, not text`},
		{"list for text", "name: demo", "name: [demo]", `3:7: name is a list, not text`},
		{"text for number", "cpus: 2", "cpus: two", `39:9: vm.cpus is text, not a whole number`},
		{"octal number", "cpus: 2", "cpus: 010", `39:9: vm.cpus: "010" is not a plain decimal number`},
		{"fraction", "cpus: 2", "cpus: 1.5", `39:9: vm.cpus is a number, not a whole number`},
		{"large number", "cpus: 2", "cpus: 99999999999", `39:9: vm.cpus: 99999999999 is out of range`},
		{"text for list", "architectures: [amd64, arm64]", "architectures: amd64", `5:16: architectures is text, not a list`},
		{"text for mapping", "  memory: 512MiB\n  cpus: 2\n  data: 8GiB", "  big", `38:3: vm is text, not a mapping of keys to values`},
		{"text for flag", "directory: true", "directory: yes please", `33:16: files[2].directory is text, not true or false`},
		{"empty value", "name: demo", "name:", `3:6: name is empty, not text`},
		{"negative for unsigned", "open_files: 4096", "open_files: -1", `71:19: services[1].limits.open_files: -1 is out of range, from 0 to 18446744073709551615`},
		{"mode without quotes", `mode: "0755"`, "mode: 0755", `31:11: files[1].mode is a number, not text`},
		{"anchor", "name: demo", "name: &a demo", `3:7: YAML anchors and aliases are not allowed`},
		{"alias", "name: demo", "name: *a", `3:7: YAML anchors and aliases are not allowed`},
		{"tag", "name: demo", "name: !!str demo", `3:7: YAML tags are not allowed`},
		{"merge key", "name: demo", "name: demo\n<<: {a: 1}", `4:1: YAML merge keys are not allowed`},
		{"second document", "schema: 1", "schema: 1\n---\nname: demo", `4:1: a second YAML document, only one is read`},
		{"not YAML", "name: demo", "name: demo\n  more: x", `3:7: not YAML: mapping value is not allowed in this context`},
		{"tab", "  cpus: 2", "\tcpus: 2", `39:1: not YAML: found a tab that cannot start any token`},

		// The meaning.
		{"schema", "schema: 1", "schema: 2", `2:9: schema is 2, this program reads 1`},
		{"name", "name: demo", "name: Demo", `3:7: recipe name "Demo" is not a name: lower case letters, digits and dashes, beginning with a letter, at most 32`},
		{"architecture", "architectures: [amd64, arm64]", "architectures: [amd64, x86_64]", `5:24: unknown architecture "x86_64", did you mean "amd64"?`},
		{"no architecture", "architectures: [amd64, arm64]", "architectures: []", `5:16: architectures is empty, list amd64, arm64 or riscv64`},
		{"architecture twice", "architectures: [amd64, arm64]", "architectures: [amd64, amd64]", `5:24: architecture "amd64" is used twice, first in line 5`},
		{"kernel architecture", "    arm64: [arm64.config]", "    riscv: [arm64.config]", `14:5: unknown architecture "riscv", did you mean "riscv64"?`},
		{"fragment missing", "- base.config", "- bse.config", `12:7: fragment is missing: there is no DIR/bse.config`},
		{"fragment of one architecture missing", "[arm64.config]", "[arm.config]", `14:13: fragment is missing: there is no DIR/arm.config`},
		{"fragment twice", "[arm64.config]", "[base.config]", `14:13: fragment "base.config" is used twice, first in line 12`},
		{"kernel source", "source: linux", "source: linus", `10:11: unknown source "linus", did you mean "linux"?`},
		{"patch missing", "source: linux", "source: linux\n  patches: [no.patch]", `11:13: patch is missing: there is no DIR/no.patch`},
		{"patch by another name", "source: linux", "source: linux\n  patches: [base.config]", `11:13: patch "base.config" has to be a file *.patch`},
		{"patch twice", "source: linux", "source: linux\n  patches: [no.patch, no.patch]", `11:23: patch "no.patch" is used twice, first in line 11`},
		{"root compression", "vm:\n", "root: {compression: gzip}\nvm:\n", `37:21: unknown compression "gzip", known are lz4, zstd`},
		{"root without compression", "vm:\n", "root: {level: 2}\nvm:\n", `37:7: root has no compression, which its level and cluster are for; it is one of zstd, lz4`},
		{"root level", "vm:\n", "root: {compression: lz4, level: 5}\nvm:\n", `37:33: root.level is 5, allowed are 1 to 4`},
		{"root cluster", "vm:\n", "root: {compression: lz4, cluster: 2MiB}\nvm:\n", `37:35: root.cluster is 2MiB, allowed are multiples of 4KiB to 1MiB`},
		{"requirement set", "require: [virtio]", "require: [virtue]", `15:13: unknown requirement set "virtue", did you mean "virtio"?`},
		{"toolchain missing", "toolchain: toolchain", "toolchain: tools", `6:12: toolchain is missing: there is no DIR/tools`},
		{"toolchain no directory", "toolchain: toolchain", "toolchain: base.config", `6:12: toolchain DIR/base.config is not a directory`},
		{"repository", "[https://example.org/packages]", "[ftp://example.org/x]", `16:16: repository "ftp://example.org/x" is neither an http or https URL nor a directory`},
		{"trust in no repository", "keys: [demo.rsa.pub]", "trust: {\"https://example.org/package\": {keys: [demo.rsa.pub]}}", `17:9: trust: the recipe has no repository "https://example.org/package", did you mean "https://example.org/packages"?`},
		{"trust without keys", "keys: [demo.rsa.pub]", "trust: {\"https://example.org/packages\": {keys: []}}", `17:48: trust: no key for https://example.org/packages, name at least one`},
		{"trust with another key's file", "keys: [demo.rsa.pub]", "trust: {\"https://example.org/packages\": {keys: [other.rsa.pub]}}", `17:49: key is missing: there is no DIR/other.rsa.pub`},
		{"trust and sha1", "keys: [demo.rsa.pub]", "trust: {\"https://example.org/packages\": {keys: [demo.rsa.pub], sha1: refused}}", `17:70: unknown word for sha1 "refused", did you mean "refuse"?`},
		{"trust is a list", "keys: [demo.rsa.pub]", "trust: [demo.rsa.pub]", `17:8: trust is a list, not a mapping of keys to values`},
		{"key missing", "[demo.rsa.pub]", "[other.rsa.pub]", `17:8: key is missing: there is no DIR/other.rsa.pub`},
		{"package", "- zlib>=1.3", "- zlib >= 1.3", `20:5: "zlib >= 1.3" is not an apk dependency like "icu-libs" or "icu-libs>=76"`},
		{"package twice", "- zlib>=1.3", "- sovereign-init", `20:5: "sovereign-init" is listed twice, first in line 19`},
		{"uid", "uid: 80\n", "uid: 0\n", `23:10: users[0].uid is 0, allowed are 1 to 65533`},
		{"uid twice", "uid: 81,", "uid: 80,", `24:22: uid 80 is used twice, first in line 23`},
		{"user twice", "{name: log,", "{name: web,", `24:12: user name "web" is used twice, first in line 22`},
		{"user root", "{name: log,", "{name: root,", `24:12: user root is in every image, it cannot be given again`},
		{"colon in home", "home: /data/log", "home: '/data:log'", `24:32: home "/data:log" has a colon in it, which /etc/passwd cannot hold`},
		{"file missing", "from: setup.sh", "from: stup.sh", `30:11: file is missing: there is no DIR/stup.sh`},
		{"file mode", `"0755"`, `"0888"`, `31:11: files[1].mode "0888" is not an octal mode like "0644"`},
		{"file of two kinds", "directory: true", "directory: true\n    from: setup.sh", `32:11: file "/srv" has from and directory, exactly one of from, content, link and directory is needed`},
		{"file of no kind", "    directory: true\n", "", `32:11: file "/srv" has none of its kinds, exactly one of from, content, link and directory is needed`},
		{"file owner", "user: web\n  - path: /etc/localtime", "user: wbe\n  - path: /etc/localtime", `34:11: unknown user "wbe", did you mean "web"?`},
		{"file path", "path: /srv", "path: srv", `32:11: files[2].path "srv" is not an absolute path`},
		{"file path climbs", "path: /srv", "path: /srv/../etc", `32:11: files[2].path "/srv/../etc" is not a clean path, without //, . and .. and a slash at the end`},
		{"file path twice", "path: /srv", "path: /etc/motd", `32:11: path "/etc/motd" is used twice, first in line 26`},
		{"file hidden", "path: /srv", "path: /data/web", `32:11: path "/data/web" lies under /data, which the guest mounts over`},
		{"decimal size", "512MiB", "512MB", `38:11: vm.memory: size "512MB" has the unit "MB", did you mean "512MiB"?`},
		{"size without unit", "512MiB", "512", `38:11: vm.memory: size "512" has no unit, write KiB, MiB, GiB or TiB like "512MiB"`},
		{"size zero", "data: 8GiB", "data: 0GiB", `40:9: vm.data is 0KiB, allowed is a whole number of MiB from 64MiB`},
		{"cpus", "cpus: 2", "cpus: 0", `39:9: vm.cpus is 0, allowed are 1 to 64`},
		{"service user", "user: web\n    environment", "user: www\n    environment", `47:11: unknown user "www", did you mean "web"?`},
		{"service twice", "- name: web\n    user: web", "- name: log\n    user: web", `46:11: service name "log" is used twice, first in line 42`},
		{"after", "after: [log]", "after: [logs]", `50:13: unknown service "logs", did you mean "log"?`},
		{"after itself", "after: [log]", "after: [web]", `50:13: services wait for each other: web → web`},
		{"after in a circle", "command: [/usr/bin/log]", "command: [/usr/bin/log]\n    after: [web]", `51:13: services wait for each other: log → web → log`},
		{"environment", "LC_ALL: C", "LC-ALL: C", `49:7: "LC-ALL" is not a name for an environment variable`},
		{"directory in the image", "- path: /run/web", "- path: /var/web", `54:15: directory "/var/web" is neither under /data (kept) nor under /run or /tmp (gone at shutdown), and the rest of the image is read-only`},
		{"command empty", "[/usr/bin/log]", "[]", `43:14: services[0].command is empty`},
		{"command relative", "[/usr/bin/log]", "[log]", `43:15: services[0].command[0] "log" is not an absolute path`},
		{"signal", "signal: INT", "signal: KILL", `62:15: unknown signal "KILL", known are INT, QUIT, TERM`},
		{"duration", "timeout: 1m", "timeout: 1", `63:16: services[1].stop.timeout: "1" is not a duration, write a number with s, m or h like "30s"`},
		{"part of a second", "timeout: 2s", "timeout: 1500ms", `68:16: services[1].health.timeout is 1.5s, allowed are whole seconds from 1s to 10m0s`},
		{"long timeout", "timeout: 1m", "timeout: 1h", `63:16: services[1].stop.timeout is 1h0m0s, allowed are whole seconds from 1s to 10m0s`},
		{"failures", "failures: 4", "failures: 0", `69:17: services[1].health.failures is 0, allowed are 1 to 1000`},
		{"starting", "starting: [1]", "starting: [0]", `66:18: services[1].health.starting[0] is 0, allowed are 1 to 255`},
		{"watched file in the image", "failures: 4", "watch: /usr/lib/web/state", `69:14: file "/usr/lib/web/state" is neither under /data (kept) nor under /run or /tmp (gone at shutdown), and the rest of the image is read-only`},
		{"service memory", "memory: 128MiB", "memory: 100KiB", `72:15: services[1].limits.memory is 100KiB, allowed is a whole number of MiB from 1MiB`},
		{"port", "port: 80\n", "port: 65536\n", `76:15: services[1].ports[0].port is 65536, allowed are 1 to 65535`},
		{"port twice", "- name: http\n", "- {name: www, port: 80}\n      - name: http\n", `77:15: port 80 is used twice, first in line 75`},
		{"secret in URL", "${secret:password}", "${secret:passwort}", `77:14: unknown secret "passwort", did you mean "password"?`},
		{"placeholder in URL", "${address}", "${adress}", `77:14: unknown placeholder ${adress}, known are ${address}, ${secret:NAME} and ${certificate:NAME}`},
		{"URL beyond ASCII", "${address}/", "${address}/ö", `77:14: url "http://web:${secret:password}@${address}/ö" has a character that is not printable ASCII: write it percent-encoded`},
		{"certificate in URL", "${address}/", "${address}/?ca=${certificate:sever}", `77:14: unknown certificate "sever", did you mean "server"?`},
		{"placeholder that does not end", "${address}/", "${address}/?ca=${certificate:server", `77:14: unknown placeholder ${certificate:server, known are ${address}, ${secret:NAME} and ${certificate:NAME}`},
		{"placeholder of no kind", "${address}/", "${address}/?ca=${cert:server}", `77:14: unknown placeholder ${cert:server}, known are ${address}, ${secret:NAME} and ${certificate:NAME}`},
		{"certificate in URL for elsewhere", "    ports:\n      - name: http\n        port: 80\n        url: http://web:${secret:password}@${address}/\n    # At the end, so that the places in the tests stay.\n    certificates:\n      - name: server\n        hosts: [localhost, 127.0.0.1, ", "    ports:\n      - name: http\n        port: 80\n        url: http://web:${secret:password}@${address}/?ca=${certificate:server}\n    certificates:\n      - name: server\n        hosts: [localhost, ", `77:14: certificate "server" is not for 127.0.0.1, where ${address} leads: add that to its hosts`},
		{"secret bytes", "- name: password", "- {name: password, bytes: 8}", `56:33: services[1].secrets[0].bytes is 8, allowed are 16 to 64`},
		{"bytes of a given secret", "{name: key, given: true}", "{name: key, given: true, bytes: 16}", `91:41: secret "key" is given by the owner, it has no bytes of its own`},
		{"service without a user", "    user: log\n", "", `42:5: key "user" is missing in services[0]`},
		{"capability", "[NET_ADMIN, NET_RAW]", "[NET_ADMIN, CAP_NET_RAW]", `95:31: capability "CAP_NET_RAW" is written without CAP_: NET_RAW`},
		{"unknown capability", "[NET_ADMIN, NET_RAW]", "[NET_BIND_SERVISE]", `95:20: unknown capability "NET_BIND_SERVISE", did you mean "NET_BIND_SERVICE"?`},
		{"capability twice", "[NET_ADMIN, NET_RAW]", "[NET_RAW, NET_RAW]", `95:29: capability "NET_RAW" is used twice, first in line 95`},
		{"device", "[/dev/net/tun]", "[/dev/shm/tun]", `96:15: device "/dev/shm/tun" is not a device file below /dev, like /dev/net/tun`},
		{"device twice", "[/dev/net/tun]", "[/dev/net/tun, /dev/net/tun]", `96:29: device "/dev/net/tun" is used twice, first in line 96`},
		{"pids", "pids: 100", "pids: 0", `97:20: services[2].limits.pids is 0, allowed are 1 to 32768`},
		{"certificate name", "- name: server", "- name: Server", `80:15: certificate name "Server" is not a name: lower case letters, digits and dashes, beginning with a letter, at most 32`},
		{"certificate host", "[localhost, ", "[local_host, ", `81:17: "local_host" is neither a DNS name nor an IP address`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := broken(t, FileName, tt.old, tt.new)
			_, err := Load(dir)
			wantFault(t, err, filepath.Join(dir, FileName)+":"+strings.ReplaceAll(tt.want, "DIR", dir))
		})
	}
}

func TestBadPort(t *testing.T) {
	tests := []struct{ name, file, old, new, want string }{
		{"unknown key", "zlib", "license: Zlib", "licence: Zlib", `3:1: unknown key "licence", did you mean "license"?`},
		{"directory of another name", "zlib", "name: zlib\nsummary", "name: libz\nsummary", `1:7: port "libz" is in the directory "zlib", the two must be the same`},
		{"version", "web", "version: 1.2_p3", "version: v1.2", `5:10: version "v1.2" is not an apk version like "1.3.1"`},
		{"no version", "web", "version: 1.2_p3\n", "", `1:7: port "web" has neither a version nor a source to take it from`},
		{"build package of one architecture", "web", "release: ", "noarch: true\nrelease: ", `8:9: port "web" is the same for every architecture, and "zlib-dev", which it is built with, is not`},
		{"build package", "web", "[zlib-dev]", "[zlib-devel]", `7:9: no port makes the package "zlib-devel", did you mean "zlib-dev"?`},
		{"Go source", "web", "go: {source: port}", "go: {source: here}", `8:14: unknown Go source "here", known are port, sovereign`},
		{"package of two ports", "web", "- name: web", "- name: zlib", `11:11: package "zlib" is made by port "web" too`},
		{"pattern", "web", `files: ["usr/bin/web"]`, `files: ["/usr/bin/web"]`, `11:13: "/usr/bin/web" is not a pattern of files relative to $OUT like "usr/bin/*" or "usr/lib/**"`},
		{"owner", "web", `"80:80"`, `"web:web"`, `15:27: owner "web:web" is not uid:gid in numbers like "70:70"`},
		{"circle", "zlib", "sources: [zlib]", "sources: [zlib]\nbuild: [web]", `7:8: ports need each other to build: web → zlib → web`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join("ports", tt.file, PortFileName)
			dir := broken(t, file, tt.old, tt.new)
			_, err := LoadPorts(Ref{Name: filepath.Join(dir, "ports")})
			at := filepath.Join(dir, file)
			switch tt.name {
			case "package of two ports":
				at = filepath.Join(dir, "ports/zlib", PortFileName)
			case "circle":
				at = filepath.Join(dir, "ports/web", PortFileName)
			}
			wantFault(t, err, at+":"+tt.want)
		})
	}
}

func TestBadSources(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"empty", "# nothing\n", `1:1: file is empty`},
		{"no source", "{}\n", `1:1: file lists no source`},
		{"name", "Linux: {debian: {suite: a, source: b}}\n", `1:1: source name "Linux" may have lower case letters, digits, dots, pluses and dashes`},
		{"nothing", "a:\n  series: \"1\"\n", `2:3: source "a" says nothing of where it is: give debian, git, npm, directory or url`},
		{"no version", "a:\n  url: https://example.org/\n", `2:3: nothing says which versions of "a" there are: give version, or list`},
		{"two kinds", "a:\n  debian: {suite: a, source: b}\n  directory: ../x\n", `3:14: source "a" is of debian already, it can be of one only`},
		{"key of another kind", "a:\n  directory: ../x\n  sha256: x\n", `3:11: key "sha256" does not go with "directory"`},
		{"sum", "a:\n  url: https://example.org/\n  version: \"1\"\n  sha256: abc\n", `4:11: "abc" is not a SHA-256 sum: want 64 lower-case hex digits`},
		{"sum of no version", "a:\n  url: https://example.org/a-${version}.gz\n  list: https://example.org/\n  sha256: abc\n", `4:11: sha256 is of one version: give that too`},
		{"list", "a:\n  url: https://example.org/a\n  list: https://example.org/\n", `3:9: list is searched for names of the file, and that of url "https://example.org/a" has no ${version}`},
		{"version and series", "a:\n  url: https://example.org/a\n  version: \"2.1\"\n  series: \"1\"\n", `3:12: version "2.1" is not in the series 1`},
		{"mirrors of nothing", "a:\n  debian: {suite: a, source: b}\n  mirrors: [https://example.org/]\n", `3:12: mirrors are of the file at url, and there is none`},
		{"mirror", "a:\n  url: https://example.org/\n  version: \"1\"\n  mirrors: [ftp://example.org/]\n", `4:13: mirror "ftp://example.org/" is not an https URL`},
		{"repository", "a:\n  git: {url: ../x, branch: main}\n", `2:14: "../x" is not the https or ssh URL of a repository`},
		{"no commit", "a:\n  git: {url: https://example.org/x}\n", `2:8: 0 of tag, branch and commit are given, want one`},
		{"two commits", "a:\n  git:\n    url: https://example.org/x\n    branch: main\n    tag: v${version}\n", `3:5: 2 of tag, branch and commit are given, want one`},
		{"short commit", "a:\n  git:\n    url: https://example.org/x\n    commit: \"1234567\"\n", `4:13: "1234567" is not the whole name of a commit: want 40 or 64 lower-case hex digits`},
		{"branch", "a:\n  git:\n    url: https://example.org/x\n    branch: --upload-pack=x\n", `4:13: "--upload-pack=x" is not a branch`},
		{"tag", "a:\n  git:\n    url: https://example.org/x\n    tag: v1\n", `4:10: tag "v1" has no ${version}; for a single tag give its commit`},
		{"series of a branch", "a:\n  git:\n    url: https://example.org/x\n    branch: main\n  series: \"1\"\n", `5:11: a series is of tags, and none are named`},
		{"absolute", "a:\n  npm:\n    lock: /etc/package-lock.json\n", `3:11: "/etc/package-lock.json" is not a clean path relative to this file, without spaces`},
		{"plain http", "a:\n  url: http://example.org/\n  debian: {suite: a, source: b}\n", `2:8: url "http://example.org/" is not an https URL`},
		{"placeholder", "a:\n  url: https://example.org/${series}\n  debian: {suite: a, source: b}\n", `2:8: unknown placeholder ${series}, known is ${version}`},
		{"series", "a:\n  debian: {suite: a, source: b}\n  series: v1\n", `3:11: series "v1" is not the beginning of a version like "17"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseSources("sources.yaml", []byte(tt.in))
			wantFault(t, err, "sources.yaml:"+tt.want)
		})
	}
}

func TestMirrors(t *testing.T) {
	m, err := ParseMirrors("mirrors.yaml", []byte("https://example.org: [https://mirror.example.net/org, \"http://127.0.0.1:8080/\"]\nhttps://example.com/a/:\n- https://mirror.example.net/a\n"))
	want := Mirrors{"https://example.org/": {"https://mirror.example.net/org/", "http://127.0.0.1:8080/"}, "https://example.com/a/": {"https://mirror.example.net/a/"}}
	if err != nil || !reflect.DeepEqual(m, want) {
		t.Errorf("%v, %v", m, err)
	}
	for in, want := range map[string]string{
		"https://example.org: [ftp://x/]\n":                                     `1:23: "ftp://x/" is not an https URL`,
		"https://example.org: [http://example.net/]\n":                          `1:23: "http://example.net/" is not an https URL`,
		"example.org: [https://x/]\n":                                           `1:1: "example.org" is not an https URL`,
		"https://example.org: []\n":                                             `1:22: no place is named that stands for https://example.org`,
		"https://example.org: https://x\n":                                      `1:22: https://example.org is text, not a list`,
		"https://example.org: [https://x]\nhttps://example.org/: [https://y]\n": `2:1: https://example.org/ has mirrors already`,
	} {
		_, err := ParseMirrors("mirrors.yaml", []byte(in))
		wantFault(t, err, "mirrors.yaml:"+want)
	}
}

func TestHints(t *testing.T) {
	_, err := Load(broken(t, FileName, "name: demo", "name: 17"))
	if got, want := fault.HintOf(err), `put it in quotes: "17"`; got != want {
		t.Errorf("hint %q, want %q", got, want)
	}
	_, err = Load(t.TempDir())
	if got, want := fault.HintOf(err), "name a recipe's directory, like recipes/sql, or its recipe.yaml"; got != want {
		t.Errorf("hint %q, want %q", got, want)
	}
}

func TestLimits(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"size", strings.Repeat("#", maxFile+1), `1:1: file is larger than 1048576 bytes`},
		{"tokens", "a: [" + strings.Repeat("1,", maxTokens) + "1]\n", `1:1: file has more than 100000 YAML tokens`},
		{"flow depth", "a: " + strings.Repeat("[", 1000) + "\n", `1:36: nested deeper than 32 levels`},
		{"block depth", strings.Repeat("- ", 1000) + "1\n", `1:65: nested deeper than 32 levels`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseSources("f", []byte(tt.in))
			wantFault(t, err, "f:"+tt.want)
		})
	}
}

func TestUnreadable(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none")); err == nil || fault.ClassOf(err) != fault.Usage {
		t.Errorf("missing recipe: %v", err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, FileName), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(filepath.Join(dir, FileName, "..")); err == nil || fault.ClassOf(err) != fault.Usage {
		t.Errorf("directory for a recipe: %v", err)
	}
}
