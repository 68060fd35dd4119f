"""What settings become at the edges."""

from pathlib import Path

from shoal.common.settings import load_settings
from shoal.common.wiring import TOKEN_REREAD_S, hub_token


def test_a_rotated_token_is_used_after_a_few_seconds(tmp_path: Path):
    file = tmp_path / "token"
    file.write_text("hf_first1")
    settings = load_settings(environ={}, cwd=tmp_path, overrides={"hub.token_file": str(file)})
    now = 0.0
    token = hub_token(settings, clock=lambda: now)

    def revealed() -> str:
        found = token()
        assert found is not None
        return found.reveal()

    assert revealed() == "hf_first1"
    file.write_text("hf_second2")
    now = TOKEN_REREAD_S / 2
    assert revealed() == "hf_first1"
    now = TOKEN_REREAD_S
    assert revealed() == "hf_second2"
