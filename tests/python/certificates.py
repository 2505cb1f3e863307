"""Certificates as an operator would make them, with openssl."""

import subprocess

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def authority(folder):
    """Makes `ca.crt` and `ca.key`."""
    folder.mkdir(parents=True, exist_ok=True)
    openssl("req", "-x509", *KEY, "-keyout", folder / "ca.key", "-out", folder / "ca.crt", "-days", "3650",
            "-subj", "/CN=tests")
    return folder / "ca.crt"


def issue(authority, folder, name="IP:127.0.0.1"):
    """Makes `tls.crt` and `tls.key`, of the authority in that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "names").write_text(f"subjectAltName={name}\nbasicConstraints=CA:FALSE\n")
    openssl("req", *KEY, "-keyout", folder / "tls.key", "-out", folder / "request", "-subj", "/CN=test")
    openssl("x509", "-req", "-in", folder / "request", "-CA", authority / "ca.crt", "-CAkey", authority / "ca.key",
            "-CAcreateserial", "-days", "3650", "-extfile", folder / "names", "-out", folder / "tls.crt")
