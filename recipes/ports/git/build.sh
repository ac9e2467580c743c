#!/bin/sh -eu
# git: the programs that are C or shell. What is Perl, Python or Tcl (send-email,
# the bridges to other systems, the windows) is left out, and so are
# translations and manual pages.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack git

# What a cross build cannot find out by running something. musl's qsort and
# regular expressions are not what git wants of them, and it has its own.
cat >config.mak <<END
prefix = /usr
gitexecdir = libexec/git-core
template_dir = share/git-core/templates
sysconfdir = /etc
CC = $CC
AR = $AR
CFLAGS = $CFLAGS
HOST_CPU = $ARCH
uname_S = Linux
uname_M = $ARCH
uname_R = 6
uname_O = GNU/Linux
uname_P = unknown
uname_V = unknown
NO_PERL = 1
NO_PYTHON = 1
NO_TCLTK = 1
NO_GETTEXT = 1
NO_EXPAT = 1
NO_INSTALL_HARDLINKS = 1
INSTALL_SYMLINKS = 1
NO_REGEX = 1
NO_SYS_POLL_H =
ICONV_OMITS_BOM = 1
USE_LIBPCRE2 = 1
LIBPCREDIR =
CURL_CONFIG = false
CURL_CFLAGS =
CURL_LDFLAGS = -lcurl
SHELL_PATH = /bin/sh
DEFAULT_PAGER = cat
DEFAULT_EDITOR = vi
GIT_BUILT_FROM_COMMIT = $VERSION
END
# Without the programs that only test git, a quarter of what there is to compile.
untested="TEST_PROGRAMS= test_bindir_programs= UNIT_TEST_PROGS= CLAR_TEST_PROG="
# shellcheck disable=SC2086 # words
make $untested all
# shellcheck disable=SC2086 # words
make $untested DESTDIR="$OUT" install
# Only for mail, patches by hand, and servers of other kinds.
rm -f "$OUT"/usr/libexec/git-core/git-imap-send "$OUT"/usr/libexec/git-core/git-http-push \
	"$OUT"/usr/bin/git-cvsserver "$OUT"/usr/bin/scalar "$OUT"/usr/libexec/git-core/scalar
rm -rf "$OUT/usr/share/locale" "$OUT/usr/share/man" "$OUT/usr/share/perl5" "$OUT/usr/share/gitweb" \
	"$OUT/usr/share/bash-completion"
# Examples of hooks, one in Perl.
rm -f "$OUT"/usr/share/git-core/templates/hooks/*.sample
strip_out
