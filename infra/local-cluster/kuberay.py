"""What Kubernetes and the KubeRay operator (1.7.0) make of our manifests: containers, their commands and variables.

Everything that a manifest says is taken as it stands. What KubeRay adds, it adds here too, under the same names.
"""

import json
import re
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from images import image, owned
from pods import Container, Mount

Manifest = dict[str, Any]

GCS_PORT, DASHBOARD_PORT, METRICS_PORT, AGENT_PORT, SERVE_PORT = 6379, 8265, 8080, 52365, 8000
FACTORS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
SWITCHES_WITH_VALUES = ("log-color", "include-dashboard", "include-log-monitor")
SHELL = ("/bin/bash", "-c", "--")
SUBMITTER_BYTES, WAITER_BYTES = 2**30, 2**28


def kubectl() -> str | None:
    """Beside this Python, or on PATH."""
    beside = Path(sys.executable).with_name("kubectl")
    return str(beside) if beside.exists() else shutil.which("kubectl")


def rendered(overlay: Path) -> list[Manifest]:
    """What `kubectl apply -k` of an overlay would send."""
    if (tool := kubectl()) is None:
        raise ValueError("manifests are rendered by kubectl, which is neither on PATH nor beside this Python")
    done = subprocess.run([tool, "kustomize", str(overlay)], capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"{overlay} cannot be rendered: {done.stderr.strip()}")
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one of a kind and name."""
    return next(m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name)


def quantity(value: str | int | float) -> float:
    """A number as Kubernetes writes it."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(value))
    if match is None or match[2] not in FACTORS:
        raise ValueError(f"{value!r} is no quantity; expected a number with one of {', '.join(filter(None, FACTORS))}")
    return float(match[1]) * FACTORS[match[2]]


@dataclass(frozen=True)
class Kept:
    """What a namespace keeps for pods: volumes and secrets."""

    folder: Path
    secrets: dict[str, dict[str, str]]
    """By the name of a secret: its values by their keys."""

    def volume(self, claim: str, group: int) -> Path:
        """The folder of a claimed volume."""
        return owned(self.folder / "volumes" / claim, group)

    def secret_folder(self, name: str, group: int) -> Path:
        """A secret as files."""
        if name not in self.secrets:
            raise ValueError(f"secret {name!r} is not there: a pod that mounts it would not start")
        folder = owned(self.folder / "secrets" / name, group)
        for key, value in self.secrets[name].items():
            (folder / key).write_text(value)
        return folder

    def value(self, variable: Manifest) -> str | None:
        """Of a variable of a container; None if its secret may be missing and is."""
        if "value" in variable:
            return str(variable["value"])
        reference = variable["valueFrom"]["secretKeyRef"]
        found = self.secrets.get(reference["name"], {}).get(reference["key"])
        if found is None and not reference.get("optional"):
            place = f"{reference['key']!r} of secret {reference['name']!r}"
            raise ValueError(f"{variable['name']} is {place}, which is not there; add it to the secrets")
        return found


def container(pod: Manifest, of: Manifest, kept: Kept, claims: dict[str, str] | None = None) -> Container:
    """A container of a pod's manifest, as Kubernetes would start it."""
    built, security = image(of["image"]), pod.get("securityContext", {})
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    group = security.get("fsGroup", security.get("runAsGroup", 0))
    mounts = []
    for mount in of.get("volumeMounts", []):
        volume, path = volumes.get(mount["name"], {}), mount["mountPath"]
        if "emptyDir" in volume:
            mounts.append(Mount(path, None, size_bytes=int(quantity(volume["emptyDir"]["sizeLimit"]))))
        elif "secret" in volume:
            mounts.append(Mount(path, kept.secret_folder(volume["secret"]["secretName"], group), read_only=True))
        else:
            claim = volume["persistentVolumeClaim"]["claimName"] if volume else (claims or {})[mount["name"]]
            mounts.append(Mount(path, kept.volume(claim, group), read_only=mount.get("readOnly", False)))
    given = {variable["name"]: kept.value(variable) for variable in of.get("env", [])}
    variables = built.variables | {name: value for name, value in given.items() if value is not None}
    words = [*(of.get("command") or built.entrypoint), *of.get("args", [])]
    words = [re.sub(r"\$\((\w+)\)", lambda match: variables.get(match[1], match[0]), word) for word in words]
    limit = of.get("resources", {}).get("limits", {}).get("memory")
    return Container(
        name=of["name"],
        command=tuple(words),
        variables=variables,
        user=security.get("runAsUser", 0),
        group=security.get("runAsGroup", 0),
        folder=built.folder,
        mounts=(*built.mounts, *mounts),
        own=built.own,
        memory_bytes=None if limit is None else int(quantity(limit)),
        before_end=tuple(of.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ())),
    )


@dataclass(frozen=True)
class PodPlan:
    """A pod's name, what it runs to the end first, and what it is for."""

    name: str
    group: str
    first: tuple[Container, ...]
    containers: tuple[Container, ...]


@dataclass(frozen=True)
class RayCluster:
    """The cluster of a RayJob or RayService, as KubeRay makes it."""

    owner: Manifest
    kept: Kept
    token: str
    """KubeRay makes a secret of it for each cluster."""

    @property
    def name(self) -> str:
        """KubeRay puts five letters behind it by chance."""
        return f"{self.owner['metadata']['name']}-local"

    @property
    def spec(self) -> Manifest:
        """Of the cluster, in either kind."""
        found: Manifest = self.owner["spec"].get("rayClusterSpec") or self.owner["spec"]["rayClusterConfig"]
        return found

    @property
    def head_name(self) -> str:
        """Of the service by which pods find the head."""
        return f"{self.name}-head-svc.{self.owner['metadata']['namespace']}.svc.cluster.local"

    def head(self) -> PodPlan:
        """The head, without the autoscaler, which would ask Kubernetes; a job's has the container that submits too."""
        group = self.spec["headGroupSpec"]
        pod = group["template"]["spec"]
        first = [self._made(pod, of, {"FQ_RAY_IP": self.head_name}) for of in pod.get("initContainers", [])]
        containers = [self._ray(group, "head", "headgroup", f"{self.name}-head")]
        if self.owner["kind"] == "RayJob":
            containers.append(self._submitter(pod))
        return PodPlan(f"{self.name}-head", "headgroup", tuple(first), tuple(containers))

    def workers(self) -> list[PodPlan]:
        """As many of each group as its manifest begins with, and one of a group that begins with none."""
        plans = []
        for group in self.spec["workerGroupSpecs"]:
            for number in range(max(1, group["replicas"])):
                name = f"{self.name}-{group['groupName']}-worker-{number}"
                ray = self._ray(group, "worker", group["groupName"], name)
                pod = group["template"]["spec"]
                first = [self._made(pod, of, {"FQ_RAY_IP": self.head_name}) for of in pod.get("initContainers", [])]
                plans.append(PodPlan(name, group["groupName"], (*first, self._waiter(pod)), (ray,)))
        return plans

    def submitted(self) -> str:
        """The job's id."""
        return f"{self.owner['metadata']['name']}-local"

    def start_line(self, group: Manifest, kind: str) -> str:
        """The `ray start` that KubeRay makes of `rayStartParams`, labels and resources."""
        values: dict[str, str] = dict(group.get("rayStartParams", {}))
        resources = group["template"]["spec"]["containers"][0].get("resources", {})
        limits, requests = resources.get("limits", {}), resources.get("requests", {})
        if labels := group.get("labels"):
            values["labels"] = ",".join(f"{key}={labels[key]}" for key in sorted(labels))
        if kind == "head":
            values.setdefault("dashboard-host", "0.0.0.0")
            if self.spec.get("enableInTreeAutoscaling"):
                values["no-monitor"] = "true"
            if "redisPassword" in self.spec.get("gcsFaultToleranceOptions", {}):
                values["redis-password"] = "$REDIS_PASSWORD"
        else:
            values.setdefault("address", f"{self.head_name}:{GCS_PORT}")
        values.setdefault("metrics-export-port", str(METRICS_PORT))
        values["block"] = "true"
        values.setdefault("dashboard-agent-listen-port", str(AGENT_PORT))
        if cpus := limits.get("cpu", requests.get("cpu")):
            # Rounded up, as Go's Quantity.Value does.
            values.setdefault("num-cpus", str(-int(-quantity(cpus) // 1)))
        if memory := limits.get("memory"):
            values.setdefault("memory", str(int(quantity(memory))))
        flags = [f"--{key}" if is_switch(key, value) else f"--{key}={value}" for key, value in sorted(values.items())]
        return " ".join(["ray", "start", *(["--head"] if kind == "head" else []), *flags])

    def submit_line(self) -> str:
        """The line of shell in which KubeRay puts an entrypoint."""
        address = f"http://127.0.0.1:{DASHBOARD_PORT}"
        health = f"r=urllib.request.urlopen('http://localhost:{DASHBOARD_PORT}/api/gcs_healthz', timeout=10)"
        test = f"import urllib.request; {health}; exit(0 if b'success' in r.read() else 1)"
        words = ["ray", "job", "submit", "--address", address]
        if "runtimeEnvYAML" in self.owner["spec"]:
            words += ["--runtime-env-json", quoted(json.dumps(yaml.safe_load(self.owner["spec"]["runtimeEnvYAML"])))]
        if "metadata" in self.owner["spec"]:
            words += ["--metadata-json", quoted(json.dumps(self.owner["spec"]["metadata"]))]
        words += ["--submission-id", self.submitted(), "--", self.owner["spec"]["entrypoint"].strip()]
        waiting = f'until python -c "{test}" >/dev/null 2>&1 ; do echo "Waiting for the dashboard ..." ; sleep 2 ; done'
        return f"{waiting} ; {' '.join(words)} ;"

    def _made(self, pod: Manifest, of: Manifest, more: dict[str, str]) -> Container:
        made = container(pod, of, self.kept)
        return replace(made, variables=made.variables | more)

    def _ray(self, group: Manifest, kind: str, group_name: str, pod_name: str) -> Container:
        pod = group["template"]["spec"]
        line = self.start_line(group, kind)
        added = self._token() | {
            "RAY_CLUSTER_NAME": self.name,
            "RAY_CLUSTER_NAMESPACE": self.owner["metadata"]["namespace"],
            "RAY_CLOUD_INSTANCE_ID": pod_name,
            "RAY_NODE_TYPE_NAME": group_name,
            "KUBERAY_GEN_RAY_START_CMD": line,
            "RAY_PORT": str(GCS_PORT),
            "RAY_ADDRESS": f"{'127.0.0.1' if kind == 'head' else self.head_name}:{GCS_PORT}",
            "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
            "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1",
        }
        if kind == "worker":
            added["FQ_RAY_IP"] = self.head_name
        if kind == "head" and self.spec.get("autoscalerOptions", {}).get("version") == "v2":
            added["RAY_enable_autoscaler_v2"] = "true"
        if self.owner["kind"] == "RayService":
            added |= {"RAY_timeout_ms_task_wait_for_death_info": "0", "RAY_SERVE_KV_TIMEOUT_S": "5"}
            added["RAY_gcs_server_request_timeout_seconds"] = "5"
        if options := self.spec.get("gcsFaultToleranceOptions"):
            added |= self._lasting(options, kind)
        made = container(pod, pod["containers"][0], self.kept)
        # A manifest's own variables are kept by KubeRay.
        own = {variable["name"] for variable in pod["containers"][0].get("env", [])}
        variables = made.variables | {name: value for name, value in added.items() if name not in own}
        return replace(made, command=(*SHELL, f"ulimit -n 65536; {line}"), variables=variables)

    def _lasting(self, options: Manifest, kind: str) -> dict[str, str]:
        """Variables for a GCS that is kept in Redis."""
        if kind == "worker":
            return {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"}
        password = self.kept.value({"name": "redisPassword"} | options["redisPassword"])
        assert password is not None
        found = {"RAY_external_storage_namespace": self.name, "RAY_REDIS_ADDRESS": options["redisAddress"]}
        return found | {"REDIS_PASSWORD": password}

    def _waiter(self, pod: Manifest) -> Container:
        address = f"{self.head_name}:{GCS_PORT}"
        line = f"until ray health-check --address {address} > /dev/null 2>&1; do sleep 5; done"
        made = container(pod, pod["containers"][0], self.kept)
        variables = made.variables | self._token() | {"FQ_RAY_IP": self.head_name}
        made = replace(made, name="wait-gcs-ready", command=(*SHELL, line), variables=variables)
        return replace(made, memory_bytes=WAITER_BYTES, before_end=())

    def _submitter(self, pod: Manifest) -> Container:
        of = {"name": "ray-job-submitter", "image": pod["containers"][0]["image"]}
        made = container(pod, of, self.kept)
        variables = made.variables | self._token() | {"RAY_JOB_SUBMISSION_ID": self.submitted()}
        command = ("/bin/bash", "-ce", "--", self.submit_line())
        return replace(made, command=command, variables=variables, memory_bytes=SUBMITTER_BYTES)

    def _token(self) -> dict[str, str]:
        if self.spec.get("authOptions", {}).get("mode") != "token":
            return {}
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}


def is_switch(key: str, value: str) -> bool:
    """Whether KubeRay writes a parameter without its value."""
    return value.lower() == "true" and key not in SWITCHES_WITH_VALUES


def quoted(text: str) -> str:
    """As Go's strconv.Quote writes plain text, which a shell then reads."""
    return json.dumps(text)


def stateful_pod(manifest: Manifest, kept: Kept) -> PodPlan:
    """The one pod of a StatefulSet."""
    spec, name = manifest["spec"], manifest["metadata"]["name"]
    claims = {of["metadata"]["name"]: f"{of['metadata']['name']}-{name}-0" for of in spec["volumeClaimTemplates"]}
    pod = spec["template"]["spec"]
    containers = tuple(container(pod, of, kept, claims) for of in pod["containers"])
    return PodPlan(f"{name}-0", name, (), containers)


def made_up() -> str:
    """A secret that nobody knows."""
    return secrets.token_hex(32)
