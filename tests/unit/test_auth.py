"""Who may call what, who may listen where, and what a client sends over which transport."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.common.channel import call_metadata, is_loopback, split_host, uses_tls
from shoal.common.errors import AccessDenied, Unauthenticated, UsageError
from shoal.common.secrets import Secret, SecretRef
from shoal.common.settings_table import SecuritySettings
from shoal.common.views import Role, TokenView
from shoal.coordinator.auth import LOCAL, ROLES, Gate, must_authenticate

CERT, KEY, CA = Path("cert.pem"), Path("key.pem"), Path("ca.pem")
SUBMIT, SESSION = "/shoal.v1.JobService/SubmitJob", "/shoal.v1.FleetService/Session"


class Tokens:
    """Two credentials, whose text is their role."""

    revoked: frozenset[str] = frozenset()

    def check(self, presented: str) -> TokenView:
        if presented not in set(Role):
            raise Unauthenticated("token", cause="unknown")
        return TokenView(token_id=f"id-{presented}", role=Role(presented), name=f"the {presented}", created_at=0)

    def lapse(self, token_id: str) -> str:
        return "was revoked" if token_id in self.revoked else ""

    def watch(self, callback: object) -> None:
        """Nobody is told."""


def methods_of(module_name: str) -> set[str]:
    import importlib

    file = importlib.import_module(module_name).DESCRIPTOR
    return {
        f"/{service.full_name}/{method.name}"
        for service in file.services_by_name.values()
        for method in service.methods
    }


def test_every_method_that_is_served_is_in_the_table_and_nothing_else() -> None:
    shoal = set[str]()
    for name in ("fleet_service", "job_service", "fleet_admin_service"):
        shoal |= methods_of(f"shoal.v1.{name}_pb2")
    assert shoal == {method for method in ROLES if method.startswith("/shoal.")}
    foreign = methods_of("grpc_health.v1.health_pb2") | methods_of("grpc_reflection.v1alpha.reflection_pb2")
    assert foreign <= ROLES.keys()


@pytest.mark.parametrize("closed", [False, True])
def test_a_method_that_is_not_in_the_table_is_nobodys(closed: bool) -> None:
    with pytest.raises(AccessDenied, match=r"/shoal\.v1\.JobService/New: nobody"):
        Gate(closed=closed, tokens=Tokens()).admit(
            "/shoal.v1.JobService/New", authorization="Bearer admin", common_name=""
        )


def test_an_open_gate_lets_everybody_in() -> None:
    gate = Gate(closed=False, tokens=Tokens())
    assert gate.admit(SUBMIT, authorization="", common_name="") is LOCAL
    assert gate.admit(SESSION, authorization="Bearer nonsense", common_name="x") is LOCAL
    assert not gate.lapse(LOCAL)


def test_a_role_opens_its_own_methods_only() -> None:
    gate = Gate(closed=True, tokens=Tokens())
    assert gate.admit(SUBMIT, authorization="Bearer admin", common_name="").name == "the admin"
    assert gate.admit(SESSION, authorization="bearer  agent", common_name="").roles == {Role.AGENT}
    with pytest.raises(AccessDenied, match=r"'the agent' has the role agent; the call needs admin"):
        gate.admit(SUBMIT, authorization="Bearer agent", common_name="")
    with pytest.raises(AccessDenied, match="needs agent"):
        gate.admit(SESSION, authorization="Bearer admin", common_name="")
    health = "/grpc.health.v1.Health/Check"
    assert gate.admit(health, authorization="Bearer agent", common_name="")
    assert gate.admit(health, authorization="Bearer admin", common_name="")


@pytest.mark.parametrize("method", sorted(ROLES))
@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic admin", "admin", "BearerX admin"]
)
def test_nothing_opens_without_a_credential(method: str, authorization: str) -> None:
    with pytest.raises(Unauthenticated):
        Gate(closed=True, tokens=Tokens()).admit(method, authorization=authorization, common_name="")


def test_a_client_certificate_stands_for_the_role_that_it_names() -> None:
    gate = Gate(closed=True, tokens=Tokens())
    caller = gate.admit(SESSION, authorization="", common_name="agent:node7")
    assert caller.name == "agent:node7"
    assert not gate.lapse(caller)
    with pytest.raises(AccessDenied):
        gate.admit(SUBMIT, authorization="", common_name="agent:node7")
    assert gate.admit(SUBMIT, authorization="", common_name="admin:alice")
    assert gate.admit(SUBMIT, authorization="Bearer admin", common_name="agent:node7").name == "the admin"
    with pytest.raises(Unauthenticated):  # a bad token is not saved by a good certificate
        gate.admit(SESSION, authorization="Bearer wrong", common_name="agent:node7")
    for name in ("alice", "admin", "admin:", "root:x", "Admin:alice", ":x"):
        with pytest.raises(Unauthenticated, match="common name"):
            gate.admit(SUBMIT, authorization="", common_name=name)


def test_a_revoked_token_holds_no_longer() -> None:
    tokens = Tokens()
    gate = Gate(closed=True, tokens=tokens)
    caller = gate.admit(SESSION, authorization="Bearer agent", common_name="")
    assert not gate.lapse(caller)
    tokens.revoked = frozenset({"id-agent"})
    assert gate.lapse(caller) == "was revoked"


# ---- where to listen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:7070", True),
        ("127.8.9.10:0", True),
        ("localhost:7070", True),
        ("LocalHost:7070", True),
        ("[::1]:7070", True),
        ("0.0.0.0:7070", False),
        ("[::]:7070", False),
        ("10.0.0.1:7070", False),
        ("localhost.example.org:7070", False),
        ("127.0.0.1.example.org:7070", False),
        ("2130706433:7070", False),  # an address to some resolvers: not trusted to be
    ],
)
def test_what_is_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback
    if not loopback:
        with pytest.raises(UsageError, match=r"needs TLS and credentials.*shoal token create"):
            must_authenticate(address, SecuritySettings())
    else:
        assert must_authenticate(address, SecuritySettings()) is False


@pytest.mark.parametrize("address", ["", "host", ":7070", "host:", "host:99999", "host:-1", "host:\u0661"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        split_host(address)


def test_beyond_loopback_a_certificate_or_a_loud_word_is_needed() -> None:
    assert must_authenticate("0.0.0.0:1", SecuritySettings(tls_cert=CERT, tls_key=KEY)) is True
    assert must_authenticate("0.0.0.0:1", SecuritySettings(tls_cert=CERT, tls_key=KEY, client_ca=CA)) is True
    assert must_authenticate("0.0.0.0:1", SecuritySettings(insecure=True)) is False
    for half in (SecuritySettings(tls_cert=CERT), SecuritySettings(tls_key=KEY), SecuritySettings(client_ca=CA)):
        with pytest.raises(UsageError):
            must_authenticate("0.0.0.0:1", half)


# ---- the client -----------------------------------------------------------------------------------------------------


def test_beyond_loopback_a_client_speaks_tls_unless_told_otherwise() -> None:
    assert uses_tls("node1:7070", SecuritySettings())
    assert uses_tls("10.0.0.1:7070", SecuritySettings())
    assert not uses_tls("10.0.0.1:7070", SecuritySettings(insecure=True))
    assert uses_tls("10.0.0.1:7070", SecuritySettings(insecure=True, tls_ca=CA))
    assert not uses_tls("127.0.0.1:7070", SecuritySettings())
    assert uses_tls("127.0.0.1:7070", SecuritySettings(tls_ca=CA))


def test_the_token_is_read_anew_for_every_call(tmp_path: Path) -> None:
    assert call_metadata(SecuritySettings()) == ()
    file = tmp_path / "token"
    security = SecuritySettings(token=SecretRef(name="security.token", file=file))
    file.write_text("one\n")
    assert call_metadata(security) == (("authorization", "Bearer one"),)
    file.write_text("two\n")
    assert call_metadata(security) == (("authorization", "Bearer two"),)
    file.unlink()
    with pytest.raises(UsageError, match=r"security\.token"):
        call_metadata(security)
    assert "s3cret" not in repr(SecuritySettings(token=SecretRef(name="t", value=Secret("s3cret"))))
