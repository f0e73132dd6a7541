"""What a mesh of containers is prepared with: every part gets what its settings ask for, and nothing of another's."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner, Result

from auth_svc.settings import AuthSettings
from auth_svc.store.key_folder import KeyFolder
from catalog_svc.settings import CatalogSettings
from meshkit.service_command import read_settings
from meshkit.settings import SETTINGS_DIR_VARIABLE, ServiceSettings
from reeltune_cli.app import build_app
from reeltune_cli.stack.certificates import ensure_certificates
from reeltune_cli.stack.prepared import PARTS, Preparation, prepare
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.signing_keys import load_signing_keys
from trainer_svc.settings import TrainerSettings

SETTINGS: dict[str, type[ServiceSettings]] = {
    "auth": AuthSettings,
    "catalog": CatalogSettings,
    "scheduler": SchedulerSettings,
    "trainer": TrainerSettings,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    prepare(Preparation(out=out, prefix="reeltune-", namespace="video"))
    return out


@pytest.mark.parametrize("part", SETTINGS)
def test_each_prepared_setting_is_one_of_the_service(prepared: Path, part: str) -> None:
    fields = {f"{part}_{name}" for name in SETTINGS[part].model_fields}
    files = {path.name for path in (prepared / part / "settings").iterdir()}
    assert files <= fields
    secrets = {name for name, field in SETTINGS[part].model_fields.items() if "SecretStr" in str(field.annotation)}
    assert {f"{part}_{name}" for name in secrets} == {
        name for name in files if name.removeprefix(f"{part}_") in secrets
    }


def test_a_service_reads_its_settings_from_the_folder_and_the_environment_comes_first(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(SETTINGS_DIR_VARIABLE, str(prepared / "auth" / "settings"))
    monkeypatch.setenv("AUTH_KEYS_DIR", str(prepared / "auth" / "keys"))
    settings = read_settings(AuthSettings, "auth_svc")
    assert settings.postgres_dsn.get_secret_value().startswith("postgresql://auth:")
    monkeypatch.setenv("AUTH_POSTGRES_DSN", "postgresql://other")
    assert read_settings(AuthSettings, "auth_svc").postgres_dsn.get_secret_value() == "postgresql://other"
    monkeypatch.setenv(SETTINGS_DIR_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(SystemExit, match="no folder"):
        read_settings(AuthSettings, "auth_svc")


def test_what_is_missing_is_named_and_no_value_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(SETTINGS_DIR_VARIABLE, str(tmp_path))
    (tmp_path / "trainer_join_secret").write_text("canary-secret")
    (tmp_path / "trainer_port").write_text("canary-port")
    with pytest.raises(SystemExit) as told:
        read_settings(TrainerSettings, "trainer_svc")
    assert "TRAINER_DATA_DIR" in str(told.value)
    assert "canary" not in str(told.value)


def test_a_former_name_by_which_a_trainer_would_lose_its_tls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SCHEDULER_TARGET", "CATALOG_TARGET", "AUTH_TARGET", "JOIN_SECRET", "DATA_DIR"):
        monkeypatch.setenv(f"TRAINER_{name}", "given")
    assert read_settings(TrainerSettings, "trainer_svc").peer_tls_ca is None
    monkeypatch.setenv("TRAINER_SERVICES_TLS_CA", "/ca.crt")
    with pytest.raises(SystemExit, match=r"TRAINER_SERVICES_TLS_CA: .*TRAINER_PEER_TLS_CA"):
        read_settings(TrainerSettings, "trainer_svc")


def test_done_again_nothing_changes_and_an_edited_setting_stays(prepared: Path) -> None:
    edited = prepared / "catalog" / "settings" / "catalog_page_token_secret"
    made = edited.read_text()
    edited.write_text("of my own making")
    before = {path: path.read_bytes() for path in prepared.rglob("*") if path.is_file()}
    prepare(Preparation(out=prepared, prefix="reeltune-", namespace="video"))
    assert {path: path.read_bytes() for path in prepared.rglob("*") if path.is_file()} == before
    edited.write_text(made)


def test_the_servers_follow_this_releases_permissions_and_the_settings(prepared: Path) -> None:
    password = prepared / "trainer" / "settings" / "trainer_nats_password"
    password.write_text("another-password")
    for path in (prepared / "nats" / "nats.json", prepared / "s3" / "identities.json"):
        path.write_text("of a release before")
    prepare(Preparation(out=prepared, prefix="reeltune-", namespace="video"))
    assert "another-password" in (prepared / "nats" / "nats.json").read_text()
    assert "$JS.API.CONSUMER.MSG.NEXT.JOBS.*" in (prepared / "nats" / "nats.json").read_text()
    assert "reeltune-catalog" in (prepared / "s3" / "identities.json").read_text()


def _command(out: Path, *options: str) -> Result:
    return CliRunner().invoke(build_app(), ["cluster", "prepare", "--out", str(out), *options])


def _names(certificate: Path) -> list[str]:
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    return loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    )


def test_options_are_kept_and_changed_only_when_told(tmp_path: Path) -> None:
    first = ["--prefix", "reeltune-", "--namespace", "video", "--edge-name", "video.example.com", "--postgres", "db:1"]
    assert _command(tmp_path, *first).exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    refused = _command(tmp_path, "--postgres", "db:2", "--edge-name", "other.example.com")
    assert refused.exit_code == 1
    assert "--postgres was db:1; --edge-name was video.example.com" in " ".join(refused.output.split())
    assert _command(tmp_path).exit_code == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    dsn = tmp_path / "auth" / "settings" / "auth_postgres_dsn"
    assert _command(tmp_path, "--change", "--postgres", "db:2", "--edge-name", "other.example.com").exit_code == 0
    assert "@db:2/reeltune" in dsn.read_text()
    assert _names(tmp_path / "edge" / "public" / "tls.crt") == ["other.example.com"]
    assert "reeltune-auth.video.svc" in _names(tmp_path / "auth" / "tls" / "tls.crt")
    dsn.write_text("postgresql://me@elsewhere/x")
    refused = _command(tmp_path, "--change", "--postgres", "db:3")
    assert refused.exit_code == 1
    assert "edited by hand" in refused.output
    assert "@db:2/" in (tmp_path / "catalog" / "settings" / "catalog_postgres_dsn").read_text()


def test_an_authority_is_replaced_step_by_step(tmp_path: Path) -> None:
    wanted = Preparation(out=tmp_path / "out")
    authority, tls = wanted.out / "authority", wanted.out / "auth" / "tls"
    prepare(wanted)
    new = ensure_certificates(tmp_path / "new")
    both = (authority / "ca.pem").read_bytes() + new.ca.read_bytes()
    (tls / "ca.crt").write_bytes(both)
    first = (tls / "tls.crt").read_bytes()
    prepare(wanted)
    assert ((tls / "ca.crt").read_bytes(), (tls / "tls.crt").read_bytes()) == (both, first)
    for name in ("ca.pem", "ca.key"):
        shutil.copy(tmp_path / "new" / name, authority / name)
    prepare(wanted)
    assert (tls / "ca.crt").read_bytes() == both
    trusted = x509.load_pem_x509_certificate(new.ca.read_bytes())
    for made in (tls, wanted.out / "catalog" / "tls", wanted.out / "edge" / "public"):
        x509.load_pem_x509_certificate((made / "tls.crt").read_bytes()).verify_directly_issued_by(trusted)
    (tls / "ca.crt").write_bytes(new.ca.read_bytes())
    prepare(wanted)
    assert (tls / "ca.crt").read_bytes() == new.ca.read_bytes()


def test_a_certificate_for_clients_that_somebody_else_made_stays(prepared: Path) -> None:
    public = prepared / "edge" / "public"
    kept = {path: path.read_bytes() for path in public.iterdir()}
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority that browsers know")])
    now = dt.datetime.now(dt.UTC)
    foreign = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=90))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    (public / "tls.crt").write_bytes(foreign)
    prepare(Preparation(out=prepared, prefix="reeltune-", namespace="video"))
    assert {path: path.read_bytes() for path in public.iterdir()} == {**kept, public / "tls.crt": foreign}


def test_secrets_are_readable_by_their_owner_alone(prepared: Path) -> None:
    open_files = {
        str(path.relative_to(prepared))
        for path in prepared.rglob("*")
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077 and path.suffix not in (".crt", ".pem")
    }
    # Read by the user of the database's own image; no other container is given its folder.
    assert open_files <= {"postgres/password", "grafana/password"} | {
        f"{part}/keys/.lock" for part in ("auth", "scheduler")
    }


@pytest.mark.parametrize("part", PARTS)
def test_certificates_name_the_identity_and_the_names_of_the_service(prepared: Path, part: str) -> None:
    certificate = x509.load_pem_x509_certificate((prepared / part / "tls" / "tls.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://reeltune/{part}"]
    assert f"reeltune-{part}.video.svc" in names.get_values_for_type(x509.DNSName)
    certificate.verify_directly_issued_by(
        x509.load_pem_x509_certificate((prepared / "authority" / "ca.pem").read_bytes())
    )


def test_no_part_is_given_what_belongs_to_another(prepared: Path) -> None:
    secrets = json.loads((prepared / "authority" / "secrets.json").read_text())
    shared = {"join_secret", "scheduler_nats", "trainer_nats", "catalog_s3", "scheduler_s3"}
    for name, value in secrets.items():
        holders = {
            path.relative_to(prepared).parts[0]
            for path in prepared.rglob("*")
            if path.is_file() and path.parts[-2] != "authority" and value.encode() in path.read_bytes()
        }
        assert len(holders) == 1 or name in shared, (name, holders)


def test_replicas_that_may_not_write_share_the_keys(prepared: Path) -> None:
    folders = [prepared / part / "keys" for part in ("auth", "scheduler")]
    before = {path for folder in folders for path in folder.iterdir()}
    for folder in folders:
        folder.chmod(0o500)
    try:
        keys = KeyFolder(folders[0])
        assert keys.ensure_keys()
        assert keys.refresh_key()
        assert load_signing_keys(folders[1])
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert {path for folder in folders for path in folder.iterdir()} == before
