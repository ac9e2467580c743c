"""certdata.py FILE: Mozilla's certdata.txt in, PEM certificates out.

The file is a list of PKCS#11 objects, one attribute a line. A certificate is
taken when a trust object with the same issuer and serial number says that it
may vouch for TLS servers. Output is sorted by label; every certificate has its
label as a comment. Anything unexpected ends the build: a bundle that silently
lacks authorities is worse than none.
"""

import base64
import re
import sys


def objects(lines):
    """Yields each object as a dict: attribute -> bytes (octal) or str."""
    current, octal = None, None
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\n")
        if octal is not None:
            if line == "END":
                octal = None
                continue
            digits = re.findall(r"\\([0-7]{3})", line)
            if len(digits) * 4 != len(line.strip()):
                sys.exit(f"certdata.txt:{number}: not octal bytes: {line}")
            current[octal] += bytes(int(d, 8) for d in digits)
            continue
        if not line.strip() or line.startswith("#") or line == "BEGINDATA":
            continue
        name, kind, *value = line.split(" ", 2)
        if name == "CKA_CLASS":
            if current:
                yield current
            current = {}
        if current is None:
            sys.exit(f"certdata.txt:{number}: attribute before the first object: {line}")
        if kind == "MULTILINE_OCTAL":
            current[name], octal = b"", name
        else:
            current[name] = value[0] if value else ""
    if octal is not None:
        sys.exit("certdata.txt: ends within octal bytes")
    if current:
        yield current


def main():
    certificates, trusted = {}, set()
    with open(sys.argv[1], encoding="utf-8") as file:
        for entry in objects(file):
            key = (entry.get("CKA_ISSUER"), entry.get("CKA_SERIAL_NUMBER"))
            if entry["CKA_CLASS"] == "CKO_CERTIFICATE":
                certificates[key] = (entry["CKA_LABEL"].strip('"'), entry["CKA_VALUE"])
            elif entry["CKA_CLASS"] == "CKO_NSS_TRUST":
                if entry["CKA_TRUST_SERVER_AUTH"] == "CKT_NSS_TRUSTED_DELEGATOR":
                    trusted.add(key)
    chosen = sorted(certificates[key] for key in trusted if key in certificates)
    if len(chosen) < 100:
        sys.exit(f"only {len(chosen)} trusted certificates: has the format changed?")
    for label, der in chosen:
        # Labels hold non-ASCII letters as \x escapes; a comment stays ASCII.
        label = label.encode("ascii", "backslashreplace").decode()
        text = base64.b64encode(der).decode()
        print(f"# {label}\n-----BEGIN CERTIFICATE-----")
        print("\n".join(text[i : i + 64] for i in range(0, len(text), 64)))
        print("-----END CERTIFICATE-----")


main()
