"""The manifests of deploy/kubernetes against the API's schemas, against each other, and against a real server's reading of their settings."""

import re
import subprocess
from pathlib import Path

import certificate
import kubernetes_validate
import pytest
import yaml
from node import GATEWAY, ROOT, SERVER, START_LIMIT

FOLDER = ROOT / "deploy/kubernetes"
# The oldest API with all that is used (`preStop.sleep` without a feature gate), and the newest that the schemas have.
VERSIONS = ("1.34", kubernetes_validate.latest_version())
SECRETS = {
    "jwt-secret": "a secret of this test alone, of more than 32 bytes",
    "database-url": "postgres://motience:password@postgres.example.org/motience",
    "redis-url": "redis://motience:password@redis.example.org:6379",
}
PROGRAMS = {"motience-server": SERVER, "motience-gateway": GATEWAY}


def documents(folder):
    """Each document of a kustomization's own resources."""
    kustomization = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())
    files = [name for name in kustomization["resources"] if name.endswith(".yaml")]
    on_disk = {path.name for path in (FOLDER / folder).glob("*.yaml")} - {"kustomization.yaml"}
    assert set(files) == on_disk
    return [document for name in files for document in yaml.safe_load_all((FOLDER / folder / name).read_text())]


BASE, EXAMPLE = documents("base"), documents("example")
DEPLOYMENTS = [document for document in BASE if document["kind"] == "Deployment"]
PODS = [deployment["spec"]["template"] for deployment in DEPLOYMENTS]


def settings():
    """Variables of settings.env, which every pod gets."""
    lines = (FOLDER / "base/settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def built():
    """Documents that kustomize makes of the example: what `kubectl apply -k` hands to the API."""
    made = subprocess.run(["kubectl", "kustomize", FOLDER / "example"], check=True, capture_output=True, text=True, timeout=START_LIMIT)
    return list(yaml.safe_load_all(made.stdout))


def name(document):
    return f"{document['kind']} {document['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", [pytest.param(document, id=name(document)) for document in BASE + EXAMPLE])
def test_manifests_are_what_the_api_takes(document, version):
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_kustomize_makes_an_installation_that_the_api_takes(built, version):
    assert {name(document) for document in BASE + EXAMPLE} < {name(document) for document in built}
    for document in built:
        kubernetes_validate.validate(document, version, strict=True)
        assert document["metadata"]["namespace"] == "motience"
    [settings_] = [document for document in built if document["kind"] == "ConfigMap"]
    assert settings_["data"].items() >= settings().items() and settings_["data"]["PERSIST"] == "true"
    for deployment in [document for document in built if document["kind"] == "Deployment"]:
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        assert re.fullmatch(r"registry\.example\.org/motience:\d+\.\d+\.\d+", container["image"])
        assert container["envFrom"] == [{"configMapRef": {"name": settings_["metadata"]["name"]}}]


def seconds(key, container):
    """A time among the settings: the pod's, or the programs' default."""
    default = re.search(rf"^#?{key}=(.*)$", (ROOT / ".env.example").read_text(), re.M)[1]
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", {**settings(), **variables(container)}.get(key, default)).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


@pytest.mark.parametrize("pod", [pytest.param(pod, id=pod["metadata"]["labels"]["app.kubernetes.io/name"]) for pod in PODS])
def test_a_pod_has_the_time_that_its_end_takes(pod):
    """docs/operators.md, "Stopping a node": LAME_DUCK, DRAIN_LIMIT and two seconds, after the pause in which balancers notice."""
    spec, [container] = pod["spec"], pod["spec"]["containers"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = pause + seconds("LAME_DUCK", container) + seconds("DRAIN_LIMIT", container) + 2
    assert needed < spec["terminationGracePeriodSeconds"]
    # A node that waits for its stores is not ready, and alive; one that hangs is ended, but not before a slow answer could come.
    ready, alive = container["readinessProbe"], container["livenessProbe"]
    assert ready["timeoutSeconds"] <= ready["periodSeconds"] and alive["timeoutSeconds"] <= alive["periodSeconds"]


def test_a_wrong_manifest_is_found():
    wrong = yaml.safe_load(yaml.safe_dump(DEPLOYMENTS[0]))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_manifests_name_each_other_rightly():
    labels = [pod["metadata"]["labels"] for pod in PODS]
    ports = [{port["name"]: port for port in pod["spec"]["containers"][0]["ports"]} for pod in PODS]
    services = {}
    for document in BASE:
        spec = document["spec"]
        if document["kind"] == "Service":
            [at] = [index for index, own in enumerate(labels) if spec["selector"].items() <= own.items()]
            for port in spec["ports"]:
                assert ports[at][port["targetPort"]].get("protocol", "TCP") == port.get("protocol", "TCP")
            services[document["metadata"]["name"]] = {port["name"] for port in spec["ports"]}
        elif document["kind"] in ("PodDisruptionBudget", "Deployment"):
            assert sum(spec["selector"]["matchLabels"].items() <= own.items() for own in labels) == 1, name(document)
        elif "matchLabels" in spec["podSelector"]:
            [at] = [index for index, own in enumerate(labels) if spec["podSelector"]["matchLabels"].items() <= own.items()]
            # All that the network may reach is declared, and all that is declared may be reached but the operations port.
            assert {port["port"] for port in spec["ingress"][0]["ports"]} == ports[at].keys() - {"operations"}
        else:
            [selector] = spec["podSelector"]["matchExpressions"]
            assert set(selector["values"]) == {own[selector["key"]] for own in labels}
    [ingress] = EXAMPLE
    for rule in ingress["spec"]["rules"]:
        [path] = rule["http"]["paths"]
        backend = path["backend"]["service"]
        assert backend["port"]["name"] in services[backend["name"]]
    assert {rule["host"] for rule in ingress["spec"]["rules"]} == set(ingress["spec"]["tls"][0]["hosts"])


@pytest.mark.parametrize("pod", [pytest.param(pod, id=pod["metadata"]["labels"]["app.kubernetes.io/name"]) for pod in PODS])
def test_a_pod_is_confined_probed_and_given_files_not_secrets(pod):
    spec, [container] = pod["spec"], pod["spec"]["containers"]
    assert spec["securityContext"]["runAsNonRoot"] and not spec["automountServiceAccountToken"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    for probe, path in [("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")]:
        assert container[probe]["httpGet"] == {"path": path, "port": "operations"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in spec["volumes"]}
    files = {key: value for key, value in {**settings(), **variables(container)}.items() if value.startswith("/")}
    assert all(str(Path(file).parent) in mounts.values() for file in files.values()), files
    assert not any(re.fullmatch(r".*(SECRET|PASSWORD|_URL)", key) for key in {**settings(), **variables(container)})


def variables(container):
    """The variables of a container that have values in its manifest."""
    return {each["name"]: each.get("value", "the-name-of-the-pod") for each in container["env"]}


def test_every_setting_is_one_that_the_programs_know():
    known = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.M))
    example = yaml.safe_load((FOLDER / "example/kustomization.yaml").read_text())["configMapGenerator"][0]["literals"]
    named = set(settings()) | {literal.split("=")[0] for literal in example}
    named |= {variable["name"] for pod in PODS for variable in pod["spec"]["containers"][0]["env"]}
    assert named <= known


@pytest.mark.parametrize("pod", [pytest.param(pod, id=pod["metadata"]["labels"]["app.kubernetes.io/name"]) for pod in PODS])
def test_the_programs_take_the_settings_of_their_pods(pod, tmp_path):
    """The program of the pod, with the pod's arguments and variables; only the folders of the mounts are elsewhere."""
    [container] = pod["spec"]["containers"]
    folders = {mount["mountPath"]: tmp_path / mount["name"] for mount in container["volumeMounts"]}
    for folder in folders.values():
        folder.mkdir()
    for key, value in SECRETS.items():
        (folders["/run/secrets/motience"] / key).write_text(value + "\n")
    if "/run/secrets/motience-tls" in folders:
        certificate.write(folders["/run/secrets/motience-tls"])
    environment = {**settings(), **variables(container)}
    for key, value in environment.items():
        if str(Path(value).parent) in folders:
            environment[key] = str(folders[str(Path(value).parent)] / Path(value).name)
    ports = {f"{each['name'].upper()}_PORT": each["containerPort"] for each in container["ports"]}
    command = [PROGRAMS[container["command"][0]], *container.get("args", []), "--check-config", "--offline"]
    checked = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=START_LIMIT)
    assert checked.returncode == 0, checked.stderr + checked.stdout
    # A pod without its secret says so, and does not start.
    del environment["JWT_SECRET_FILE"]
    refused = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=START_LIMIT)
    assert refused.returncode == 78 and "JWT_SECRET" in refused.stderr + refused.stdout
    # The ports are the programs' own, as .env.example tells them.
    example = dict(re.findall(r"^#?([A-Z0-9_]+_PORT)=(\d+)", (ROOT / ".env.example").read_text(), re.M))
    for key, number in {key: number for key, number in ports.items() if key in example and key != "OPERATIONS_PORT"}.items():
        assert str(number) == example[key], key
