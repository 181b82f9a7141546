"""A rendered overlay (standard input): every reference meets its object, every pod is confined, probed and bounded."""

import sys

import yaml
from report import Findings, read

found = Findings()
objects = [document for document in yaml.safe_load_all(sys.stdin) if document]
by_kind: dict[str, dict[str, dict]] = {}
for item in objects:
    by_kind.setdefault(item["kind"], {})[item["metadata"]["name"]] = item
readme = read("deploy/kubernetes/README.md")
workloads = {**by_kind.get("Deployment", {}), **by_kind.get("StatefulSet", {})}
pods = {name: workload["spec"]["template"] for name, workload in workloads.items()}


def selected(selector: dict) -> list[str]:
    """The workloads whose pods a label selector matches."""
    def fits(labels: dict) -> bool:
        exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
        return exact and all(labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", []))
    return [name for name, pod in pods.items() if fits(pod["metadata"]["labels"])]


def ports(name: str) -> set[object]:
    listed = [port for container in pods[name]["spec"]["containers"] for port in container.get("ports", [])]
    return {port["name"] for port in listed} | {port["containerPort"] for port in listed}


found.unless("Secret" not in by_kind, "a Secret is committed")
for kind, name in (("Deployment", "region-node"), ("StatefulSet", "global-sync"), ("HorizontalPodAutoscaler", "region-node"), ("NetworkPolicy", "closed")):
    found.unless(name in by_kind.get(kind, {}), f"no {kind} {name}")

for name, workload in workloads.items():
    pod = pods[name]["spec"]
    security = pod.get("securityContext", {})
    found.unless(name in selected(workload["spec"]["selector"]), f"{name}: does not select its own pods")
    found.unless(security.get("runAsNonRoot") and security.get("seccompProfile"), f"{name}: its pods are not confined")
    found.unless(pod.get("automountServiceAccountToken") is False, f"{name}: carries a token of the cluster")
    found.unless(pod["serviceAccountName"] in by_kind["ServiceAccount"], f"{name}: no account {pod['serviceAccountName']}")
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    for volume in volumes.values():
        if "secret" in volume:
            found.unless(volume["secret"]["secretName"] in readme, f"{name}: the README does not say how to make secret {volume['secret']['secretName']}")
    for container in pod["containers"] + pod.get("initContainers", []):
        label = f"{name}/{container['name']}"
        own = container.get("securityContext", {})
        closed = own.get("allowPrivilegeEscalation") is False and own.get("readOnlyRootFilesystem") and own.get("capabilities") == {"drop": ["ALL"]}
        found.unless(closed, f"{label}: is not confined")
        found.unless(":" in container["image"] and not container["image"].endswith(":latest"), f"{label}: {container['image']} names no version")
        resources = container.get("resources", {})
        found.unless("memory" in resources.get("limits", {}) and "cpu" in resources.get("requests", {}), f"{label}: has no bounds")
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                found.unless(source["configMapRef"]["name"] in by_kind["ConfigMap"], f"{label}: no ConfigMap {source['configMapRef']['name']}")
            else:
                reference = f"generic {source['secretRef']['name']} "
                found.unless(reference in readme, f"{label}: the README does not say how to make secret {source['secretRef']['name']}")
        for mount in container.get("volumeMounts", []):
            found.unless(mount["name"] in volumes, f"{label}: no volume {mount['name']}")
        if container in pod["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                target = container.get(probe, {}).get("httpGet", {}).get("port")
                found.unless(target in ports(name), f"{label}: {probe} asks port {target}, which is not its own")
            grace = pod.get("terminationGracePeriodSeconds", 30)
            pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
            found.unless(pause < grace / 2, f"{label}: preStop leaves too little of the {grace} s to end in")

for name, service in by_kind["Service"].items():
    targets = selected({"matchLabels": service["spec"]["selector"]})
    found.unless(targets, f"Service {name}: selects nothing")
    for port in service["spec"]["ports"]:
        found.unless(all(port["targetPort"] in ports(target) for target in targets), f"Service {name}: no port {port['targetPort']}")
for name, ingress in by_kind.get("Ingress", {}).items():
    for rule in ingress["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            service = by_kind["Service"].get(backend["name"])
            found.unless(service and backend["port"]["name"] in [port["name"] for port in service["spec"]["ports"]], f"Ingress {name}: no {backend}")
        hosts = [host for tls in ingress["spec"]["tls"] for host in tls["hosts"]]
        found.unless(rule["host"] in hosts, f"Ingress {name}: {rule['host']} has no TLS")
        found.unless(rule["host"] != "region.gocomet.example", f"Ingress {name}: the overlay does not set the host")
for name, budget in by_kind["PodDisruptionBudget"].items():
    found.unless(selected(budget["spec"]["selector"]), f"PodDisruptionBudget {name}: selects nothing")
for name, scaler in by_kind["HorizontalPodAutoscaler"].items():
    target = workloads.get(scaler["spec"]["scaleTargetRef"]["name"])
    found.unless(target is not None, f"HorizontalPodAutoscaler {name}: scales nothing")
    found.unless(target and "replicas" not in target["spec"], f"HorizontalPodAutoscaler {name}: each apply would reset the replicas")
for name, policy in by_kind["NetworkPolicy"].items():
    selector = policy["spec"]["podSelector"]
    found.unless(not selector or selected(selector), f"NetworkPolicy {name}: selects nothing")
for workload in pods:
    own = [policy for policy in by_kind["NetworkPolicy"].values() if policy["spec"]["podSelector"] and workload in selected(policy["spec"]["podSelector"])]
    found.unless(own, f"{workload}: no NetworkPolicy opens anything for it")
found.exit()
