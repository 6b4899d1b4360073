"""A certificate for this machine, of an authority that is made with it."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def write(folder, *hosts):
    """Leaves `ca.pem`, `tls.crt` and `tls.key` in the folder, as an operator's authority would. The certificate may name other hosts, too."""
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([*map(x509.DNSName, ("localhost", *hosts)), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    ca = signed("Tests' authority", "Tests' authority", authority.public_key(), authority, constraints)
    leaf = signed("localhost", "Tests' authority", key.public_key(), authority, names)
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.crt").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "tls.key").write_bytes(key.private_bytes(*form))


def signed(subject, issuer, key, by, extension):
    subject, issuer = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in (subject, issuer))
    now = datetime.datetime.now(datetime.UTC)
    building = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key).serial_number(x509.random_serial_number())
    building = building.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(30))
    return building.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints)).sign(by, hashes.SHA256())
