import pytest
from command import Runner


@pytest.fixture
def otmetrics(monkeypatch, capsys):
    return Runner(monkeypatch, capsys)
