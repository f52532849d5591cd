"""The shipped manifest against the Kubernetes schema, and against what the sidecar really offers."""

import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from sidecar import VERSION, settings

ROOT = Path(__file__).parents[3]
DOCUMENTS = list(yaml.safe_load_all((ROOT / "deploy/pod.yaml").read_text()))
POD = next(document for document in DOCUMENTS if document["kind"] == "Pod")
SIDECAR = POD["spec"]["initContainers"][0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["kind"])
def test_each_document_fits_the_schema(document):
    kubernetes_validate.validate(document, "1.36", strict=True)


def test_schema_check_finds_an_unknown_field():
    broken = {**POD, "spec": {**POD["spec"], "initContainer": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.36", strict=True)


def test_sidecar_is_native_and_first():
    assert SIDECAR["restartPolicy"] == "Always"
    assert SIDECAR["image"].endswith(":" + VERSION)


def test_config_map_holds_settings_that_the_sidecar_understands():
    config = next(document for document in DOCUMENTS if document["kind"] == "ConfigMap")["data"]
    loaded = settings.load(None, config)
    assert loaded.profile.name == "production"
    assert loaded.node_models["oracle.summary"] == "gpt-4o-mini"


def test_pod_outlives_the_sidecars_grace():
    assert POD["spec"]["terminationGracePeriodSeconds"] * 1000 > 2 * settings.Server().grace_ms


def test_image_and_wheel_have_one_version():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
    assert tomllib.loads((ROOT / "rust_core/Cargo.toml").read_text())["package"]["version"] == VERSION
