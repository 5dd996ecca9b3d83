"""Manifests of Kubernetes are what Kubernetes, KubeRay, Ray and our own configs take, and agree with one another."""

import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.version import Version
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.scripts.scripts import start
from ray.serve.schema import ServeDeploySchema

from manifests import (
    KUBERAY,
    OVERLAYS,
    ROOT,
    SECRETS,
    Manifest,
    built,
    cluster_spec,
    containers,
    crds,
    folded,
    named,
    of_kind,
    parsed_command,
    pod_templates,
    quantity,
    ray_clusters,
    ray_groups,
)
from nigaoe.core.config import load_config
from nigaoe.eval.config import EvalConfig
from nigaoe.serve.app import INGRESS_CPUS
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.deploy_file import read_serve_config
from nigaoe.serve.playground.config import PlaygroundConfig
from nigaoe.train.config import TrainConfig

# The oldest and the newest release that are looked at; schemas differ little between.
KUBERNETES = ["1.31", "1.37"]
JOBS = ["prepare", "train", "eval"]
BUILT_IN = ("v1", "apps/v1", "batch/v1", "networking.k8s.io/v1", "policy/v1")
# KubeRay refuses longer names of jobs and services, from which it makes those of clusters.
LONGEST_NAME = 47
GPU = "nvidia.com/gpu"
SHARED, KEYS = "/mnt/shared/", "/etc/nigaoe/"


def configs_of(job: Manifest) -> TrainConfig | EvalConfig:
    """The config that a job's entrypoint runs with."""
    command, given = parsed_command(job["spec"]["entrypoint"])
    model: Any = {"prepare": TrainConfig, "train": TrainConfig, "eval": EvalConfig}[command]
    config: TrainConfig | EvalConfig = load_config(ROOT / given["config"], model, given["overrides"] or ())
    return config


def serve_config_of(overlay: str, tmp_path: Path) -> ServeConfig:
    path = tmp_path / "serve.yaml"
    path.write_text(named(overlay, "RayService", "serve")["spec"]["serveConfigV2"])
    return read_serve_config(path)


def requested(template: Manifest, resource: str) -> float:
    """What all containers of a pod ask for together."""
    total = 0.0
    for container in template["spec"]["containers"]:
        resources = container["resources"]
        asked = resources["requests"].get(resource, resources["limits"].get(resource, 0))
        total += quantity(asked)
    return total


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_built_in_kinds_fit_their_schemas(overlay: str, version: str) -> None:
    checked = [manifest for manifest in built(overlay) if manifest["apiVersion"] in BUILT_IN]
    for manifest in checked:
        kubernetes_validate.validate(manifest, version, strict=True)
    assert {manifest["kind"] for manifest in checked} >= {"Namespace", "NetworkPolicy", "PodDisruptionBudget"}
    others = {m["apiVersion"].partition("/")[0] for m in built(overlay) if m["apiVersion"] not in BUILT_IN}
    assert others <= {"ray.io", "kueue.x-k8s.io"}, "kinds that no test knows"


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_fit_their_schema(overlay: str, version: str) -> None:
    for name, template in pod_templates(overlay):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template}
        kubernetes_validate.validate(pod, version, strict=True)


def test_an_unknown_field_of_a_pod_is_noticed() -> None:
    template = {"spec": {"containers": [{"name": "a", "image": "b", "resource": {}}]}}
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "a"}, "template": template}
    with pytest.raises(kubernetes_validate.ValidationError, match="resource"):
        kubernetes_validate.validate(pod, KUBERNETES[0], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_custom_resources_fit_their_definitions(overlay: str) -> None:
    checked = [manifest for manifest in built(overlay) if manifest["apiVersion"] not in BUILT_IN]
    for manifest in checked:
        schema = crds()[manifest["apiVersion"], manifest["kind"]]
        jsonschema.Draft202012Validator(schema).validate(manifest)
    assert len(checked) >= 4


def test_an_unknown_field_of_a_custom_resource_is_noticed() -> None:
    job = yaml.safe_load(folded(named("gpu", "RayJob", "train")))
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volume"] = []
    with pytest.raises(jsonschema.ValidationError, match="volume"):
        jsonschema.Draft202012Validator(crds()["ray.io/v1", "RayJob"]).validate(job)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_autoscaler_reads_every_cluster(overlay: str) -> None:
    for manifest in ray_clusters(overlay):
        spec = cluster_spec(manifest)
        derived = _derive_autoscaling_config_from_ray_cr({"metadata": manifest["metadata"], "spec": spec})
        types = derived["available_node_types"]
        assert types["headgroup"]["resources"]["CPU"] == 0, "a head that computes can starve"
        for group in spec["workerGroupSpecs"]:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            read = types[group["groupName"]]
            assert read["resources"].get("GPU", 0) == int(limits.get(GPU, 0))
            assert (read["min_workers"], read["max_workers"]) == (group["minReplicas"], group["maxReplicas"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_start_knows_the_parameters(overlay: str) -> None:
    for manifest in ray_clusters(overlay):
        for group in ray_groups(manifest):
            arguments = [f"--{key}={value}" for key, value in group["rayStartParams"].items()]
            start.make_context("start", ["--address=head:6379", *arguments])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rules_that_kuberay_keeps_beside_its_schema(overlay: str) -> None:
    for manifest in ray_clusters(overlay):
        spec, name = cluster_spec(manifest), manifest["metadata"]["name"]
        assert len(name) <= LONGEST_NAME
        assert spec["authOptions"]["mode"] == "token"
        assert spec.get("autoscalerOptions", {}).get("version", "v2") == "v2"
        for group in spec["workerGroupSpecs"]:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            # With the autoscaler a pod that ended is replaced by a new one.
            assert "restartPolicy" not in group["template"]["spec"]
            if "priority" in group:
                assert Version(spec["rayVersion"]) >= Version("2.56")
    for job in of_kind(overlay, "RayJob"):
        spec = job["spec"]
        assert spec["shutdownAfterJobFinishes"], "one that stays cannot be suspended"
        assert spec["suspend"]
        assert "submitterPodTemplate" not in spec, "no such thing in SidecarMode"
        # KubeRay writes the entrypoint into a line of shell of its own, which would take these for itself.
        assert not set(shlex.shlex(spec["entrypoint"], punctuation_chars=True)) & {"&&", "||", ";", "|", ">", "<", "&"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_entrypoints_are_commands_of_ours_with_valid_configs(overlay: str) -> None:
    assert {job["metadata"]["name"] for job in of_kind(overlay, "RayJob")} == set(JOBS)
    for job in of_kind(overlay, "RayJob"):
        command, given = parsed_command(job["spec"]["entrypoint"])
        assert command == job["metadata"]["name"]
        # The image has what the repository has in configs, and runs beside it.
        assert Path(given["config"]).parts[0] == "configs"
        config = configs_of(job)
        address = config.ray_address if isinstance(config, EvalConfig) else config.cluster.address
        assert address == "auto", "without it the job would start a Ray of its own on the head"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobs_name_folders_that_all_pods_share(overlay: str) -> None:
    train, prepare = (configs_of(named(overlay, "RayJob", name)) for name in ("train", "prepare"))
    evaluation = configs_of(named(overlay, "RayJob", "eval"))
    assert isinstance(train, TrainConfig)
    assert isinstance(prepare, TrainConfig)
    assert isinstance(evaluation, EvalConfig)
    assert train.data == prepare.data, "training reads what preparing wrote"
    assert str(train.out / "adapter.safetensors") in evaluation.adapters.values(), "evaluated is what was trained"
    places = [train.data.source, str(train.data.prepared), str(train.out), str(evaluation.out), train.publish_to]
    if evaluation.protocol.kind == "folder":
        places.append(str(evaluation.protocol.references))
    assert [place for place in places if not str(place).startswith(SHARED)] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_demo_draws_the_pictures_that_it_prepares(overlay: str) -> None:
    job = named(overlay, "RayJob", "prepare")
    before = cluster_spec(job)["headGroupSpec"]["template"]["spec"].get("initContainers", [])
    config = configs_of(job)
    assert isinstance(config, TrainConfig)
    if overlay != "cpu-demo":
        assert before == []
        return
    command, given = parsed_command(shlex.join(before[0]["args"]))
    assert command == "toy portraits"
    assert config.data.source == f"{given['out']}/captions.csv"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_jobs_ask_for_fits_what_their_groups_can_become(overlay: str) -> None:
    for job in of_kind(overlay, "RayJob"):
        config = configs_of(job)
        if isinstance(config, EvalConfig):
            workers, cpus, gpus = config.workers, 1.0, config.gpus_per_worker
        else:
            cluster = config.cluster
            decoders = cluster.decoders if job["metadata"]["name"] == "prepare" else 0
            workers, cpus, gpus = cluster.num_workers, cluster.cpus_per_worker + decoders, float(cluster.use_gpu)
        room = 0
        spec = cluster_spec(job)
        derived = _derive_autoscaling_config_from_ray_cr({"metadata": job["metadata"], "spec": spec})
        for group in spec["workerGroupSpecs"]:
            has = derived["available_node_types"][group["groupName"]]["resources"]
            each = min(has["CPU"] // cpus, has.get("GPU", 0) // gpus if gpus else workers)
            most = group["maxReplicas"] if spec["enableInTreeAutoscaling"] else group["replicas"]
            room += int(each) * most
        assert room >= workers, f"{job['metadata']['name']} wants {workers} workers, its cluster holds {room}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_serve_config_is_what_ray_serve_and_we_take(overlay: str, tmp_path: Path) -> None:
    text = named(overlay, "RayService", "serve")["spec"]["serveConfigV2"]
    schema = ServeDeploySchema.model_validate(yaml.safe_load(text))
    assert schema.http_options.host == "0.0.0.0"
    assert {app.import_path for app in schema.applications} == {
        "nigaoe.serve.app:build",
        "nigaoe.serve.playground.app:build",
    }
    config = serve_config_of(overlay, tmp_path)
    assert config.port == 8000
    page = next(app for app in schema.applications if app.name == "nigaoe-playground")
    assert PlaygroundConfig.model_validate(page.args).url == config.local_url(8000)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_service_fits_its_pods(overlay: str, tmp_path: Path) -> None:
    service, config = named(overlay, "RayService", "serve"), serve_config_of(overlay, tmp_path)
    groups = cluster_spec(service)["workerGroupSpecs"]
    engines = [group for group in groups if group["labels"]["nigaoe.group"] == "engines"]
    fronts = [group for group in groups if group["labels"]["nigaoe.group"] == "front"]
    for group in engines:
        assert group["minReplicas"] == 0 == config.autoscaling.min_replicas, "scales from zero"
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert float(limits.get(GPU, 0)) == config.num_gpus
        assert max(group["maxReplicas"] for group in engines) == config.autoscaling.max_replicas
    gives = [float(group["rayStartParams"].get("num-cpus", config.num_cpus)) for group in engines]
    assert gives == [config.num_cpus] * len(engines), "nothing else fits beside an engine"
    (front,) = fronts
    assert front["minReplicas"] >= 1, "somebody must hear the first request"
    room = float(front["rayStartParams"].get("num-cpus", requested(front["template"], "cpu")))
    assert config.ingresses * INGRESS_CPUS * 2 <= front["minReplicas"] * room, "an ingress and its successor fit"
    delay = service["spec"].get("rayClusterDeletionDelaySeconds", 60)
    assert delay >= config.drain_s, "an old cluster ends what it has begun"
    assert config.limits.request_s >= config.autoscaling.cold_start_s, "the first request outlives the start"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ingresses_stay_off_machines_with_gpus(overlay: str) -> None:
    service = named(overlay, "RayService", "serve")
    schema = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    labels = [group.get("labels", {}) for group in cluster_spec(service)["workerGroupSpecs"]]
    bound = {d.name: d.ray_actor_options for app in schema.applications for d in app.deployments}
    # Names and figures are those of the applications' own code, which these options replace as a whole.
    assert bound.keys() - {"engine"} == {"ingress", "playground"}
    assert bound["ingress"].num_cpus == INGRESS_CPUS
    assert bound["playground"].num_cpus == 0
    for options in (bound["ingress"], bound["playground"]):
        assert options.label_selector
        assert options.runtime_env == {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
        assert [selected for selected in labels if options.label_selector.items() <= selected.items()] == [labels[0]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_engines_leave_the_front_to_ingresses(overlay: str, tmp_path: Path) -> None:
    """One that got there first would take the CPU that an ingress waits for, which may be nowhere else."""
    service, config = named(overlay, "RayService", "serve"), serve_config_of(overlay, tmp_path)
    schema = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    front, *engines = cluster_spec(service)["workerGroupSpecs"]
    if config.num_gpus > 0:
        assert GPU not in folded(front["template"]["spec"]["containers"][0]["resources"])
        return
    (options,) = [d.ray_actor_options for a in schema.applications for d in a.deployments if d.name == "engine"]
    assert (options.num_cpus, options.num_gpus or 0) == (config.num_cpus, config.num_gpus)
    assert options.label_selector
    assert not options.label_selector.items() <= front["labels"].items()
    assert all(options.label_selector.items() <= group["labels"].items() for group in engines)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_files_that_the_service_reads_are_mounted_where_it_reads_them(overlay: str, tmp_path: Path) -> None:
    config, groups = serve_config_of(overlay, tmp_path), cluster_spec(named(overlay, "RayService", "serve"))
    assert str(config.access.keys_file).startswith(KEYS)
    assert str(config.storage.registry).startswith(SHARED)
    assert config.storage.objects.startswith(SHARED)
    front = groups["workerGroupSpecs"][0]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in front["containers"][0]["volumeMounts"]}
    (volume,) = [volume for volume in front["volumes"] if volume["name"] == mounts[KEYS.rstrip("/")]]
    keys = {secret["metadata"]["name"]: secret["stringData"] for secret in yaml.safe_load_all(SECRETS.read_text())}
    assert config.access.keys_file is not None
    assert config.access.keys_file.name in keys[volume["secret"]["secretName"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_references_lead_somewhere(overlay: str) -> None:
    secrets = {secret["metadata"]["name"]: secret["stringData"] for secret in yaml.safe_load_all(SECRETS.read_text())}
    claims = {claim["metadata"]["name"] for claim in of_kind(overlay, "PersistentVolumeClaim")}
    for set_ in of_kind(overlay, "StatefulSet"):
        claims |= {claim["metadata"]["name"] for claim in set_["spec"]["volumeClaimTemplates"]}
    for name, template in pod_templates(overlay):
        volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
        for volume in template["spec"].get("volumes", []):
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "shared") in claims, name
            assert volume.get("secret", {}).get("secretName", "redis") in secrets, name
        for container in containers(template):
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= volumes | claims, name
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                assert reference is None or reference["key"] in secrets[reference["name"]], name
    password = cluster_spec(named(overlay, "RayService", "serve"))["gcsFaultToleranceOptions"]["redisPassword"]
    assert password["valueFrom"]["secretKeyRef"]["key"] in secrets["redis"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_select_pods(overlay: str) -> None:
    # KubeRay adds the kind of node.
    labels = [template["metadata"]["labels"] | {"ray.io/node-type": "head"} for _, template in pod_templates(overlay)]
    selectors = [budget["spec"]["selector"] for budget in of_kind(overlay, "PodDisruptionBudget")]
    for policy in of_kind(overlay, "NetworkPolicy"):
        selectors.append(policy["spec"]["podSelector"])
        rules = [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
        peers = [peer for rule in rules for peer in [*rule.get("from", []), *rule.get("to", [])]]
        selectors += [peer["podSelector"] for peer in peers if "podSelector" in peer]
    for service in of_kind(overlay, "Service"):
        selectors.append({"matchLabels": service["spec"]["selector"]})
    for selector in selectors:
        wanted = selector.get("matchLabels", {})
        expressions = selector.get("matchExpressions", [])
        chosen = [
            each
            for each in labels
            if wanted.items() <= each.items() and all(each.get(e["key"]) in e["values"] for e in expressions)
        ]
        assert chosen, f"{selector} selects nobody"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_port_is_open_to_somebody(overlay: str) -> None:
    open_ports = {
        port["port"]
        for policy in of_kind(overlay, "NetworkPolicy")
        for rule in policy["spec"].get("ingress", [])
        for port in rule.get("ports", [])
    }
    # GCS and client are for pods of ours, which may reach one another on any port.
    assert open_ports == {6379, 8000, 8080, 8265, 44217, 44227, 52365}
    declared = {
        port["containerPort"]
        for _, template in pod_templates(overlay)
        for container in containers(template)
        for port in container.get("ports", [])
    }
    assert declared - open_ports == {10001}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_keep_to_the_restricted_profile(overlay: str) -> None:
    for name, template in pod_templates(overlay):
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"], name
        assert pod["runAsUser"] > 0, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(template):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert not template["spec"].get("hostNetwork"), name
        assert all("hostPath" not in volume for volume in template["spec"].get("volumes", [])), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_shared_memory_holds_the_object_store(overlay: str) -> None:
    for manifest in ray_clusters(overlay):
        for group in ray_groups(manifest):
            spec = group["template"]["spec"]
            (shm,) = [volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "shm"]
            assert shm["medium"] == "Memory"
            memory = quantity(spec["containers"][0]["resources"]["limits"]["memory"])
            store = float(group["rayStartParams"].get("object-store-memory", 0.3 * memory))
            assert store <= quantity(shm["sizeLimit"]) < memory


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_says_what_it_needs(overlay: str) -> None:
    for name, template in pod_templates(overlay):
        for container in containers(template):
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), name
            assert resources["requests"]["memory"] == resources["limits"]["memory"] or name == "redis", name
            # A limit of CPU would throttle a pod that has the machine to itself.
            assert "cpu" not in resources["limits"], name


@pytest.mark.parametrize("overlay", ["gpu", "spot", "kueue"])
def test_pods_with_gpus_are_let_onto_their_machines(overlay: str) -> None:
    found = 0
    for name, template in pod_templates(overlay):
        wants = GPU in folded(template["spec"]["containers"][0]["resources"])
        tolerated = {toleration["key"] for toleration in template["spec"].get("tolerations", [])}
        assert (GPU in tolerated) == wants, name
        spot = template["spec"].get("nodeSelector") == {"nigaoe.capacity": "spot"}
        assert ("nigaoe.capacity" in tolerated) == spot, name
        found += wants
    assert found >= 4


def test_spot_engines_come_first_and_are_otherwise_the_same() -> None:
    _, ordinary, spot = cluster_spec(named("spot", "RayService", "serve"))["workerGroupSpecs"]
    assert spot["priority"] > ordinary.get("priority", 0)
    assert spot["labels"] == ordinary["labels"]
    assert spot["template"]["spec"]["containers"] == ordinary["template"]["spec"]["containers"]


def test_spot_training_outlives_machines() -> None:
    config = configs_of(named("spot", "RayJob", "train"))
    assert isinstance(config, TrainConfig)
    assert config.cluster.max_failures == -1
    assert config.cluster.min_workers == 1
    assert config.cluster.num_workers == 8


def test_the_queue_has_room_for_each_job() -> None:
    (queue,) = of_kind("kueue", "ClusterQueue")
    (local,) = of_kind("kueue", "LocalQueue")
    (flavor,) = of_kind("kueue", "ResourceFlavor")
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    (group,) = queue["spec"]["resourceGroups"]
    (offer,) = group["flavors"]
    assert offer["name"] == flavor["metadata"]["name"]
    quota = {each["name"]: quantity(each["nominalQuota"]) for each in offer["resources"]}
    assert quota.keys() == set(group["coveredResources"])
    for job in of_kind("kueue", "RayJob"):
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
        spec = cluster_spec(job)
        assert not spec["enableInTreeAutoscaling"]
        pods = [(spec["headGroupSpec"]["template"], 1)]
        pods += [(group["template"], group["replicas"]) for group in spec["workerGroupSpecs"]]
        names = {
            name for pod, _ in pods for c in pod["spec"]["containers"] for r in c["resources"].values() for name in r
        }
        assert names <= quota.keys(), "Kueue admits nothing that it cannot count"
        # KubeRay's own container, which submits.
        extra = {"cpu": 0.5, "memory": quantity("200Mi")}
        for name in names:
            asked = sum(requested(pod, name) * count for pod, count in pods) + extra.get(name, 0)
            assert asked <= quota[name], f"{job['metadata']['name']} asks for {asked} of {name}"


def test_every_file_belongs_to_an_overlay() -> None:
    """A manifest that no kustomization names is checked by nothing."""
    named_files = {SECRETS, KUBERAY / "operator" / "values.yaml"}
    for path in KUBERAY.rglob("kustomization.yaml"):
        kustomization = yaml.safe_load(path.read_text())
        listed = [*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", []))]
        named_files |= {path, *((path.parent / name).resolve() for name in listed)}
    assert {path for path in KUBERAY.rglob("*") if path.is_file()} <= named_files


def test_the_operator_is_pinned_and_watches_the_namespace() -> None:
    path = KUBERAY / "operator" / "values.yaml"
    values = yaml.safe_load(path.read_text())
    (chart,) = re.findall(r"--version (\S+)", path.read_text())
    assert values["image"]["tag"] == f"v{chart}"
    assert Version(chart) >= Version("1.7.0"), "older ones do not know `priority` of groups"
    (namespace,) = of_kind("gpu", "Namespace")
    assert values["watchNamespace"] == [namespace["metadata"]["name"]]


def test_secrets_of_the_template_hold_none() -> None:
    for secret in yaml.safe_load_all(SECRETS.read_text()):
        kubernetes_validate.validate(secret, KUBERNETES[-1], strict=True)
        assert set(map(str.strip, secret["stringData"].values())) <= {"FILL-IN", "[]"}
    assert all(not of_kind(overlay, "Secret") for overlay in OVERLAYS)
