"""The version stands in two places; they agree."""

from importlib.metadata import version

from shoal.common.version import VERSION


def test_constant_is_the_installed_version():
    assert version("shoal") == VERSION
