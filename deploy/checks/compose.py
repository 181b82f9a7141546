"""The compose file as a whole: complete regions, confined services, nothing secret in it."""

import re

from report import ROOT, Findings, dockerfile_stages, load_yaml

SERVICES = ["postgres", "redis", "region-node", "global-sync"]

found = Findings()
compose = load_yaml("deploy/compose/compose.yaml")
services: dict[str, dict] = compose["services"]
networks, volumes, secrets = compose["networks"], compose["volumes"], compose["secrets"]
stages = dockerfile_stages()
regions = [name for name in networks if name != "mesh"]
found.unless(len(regions) == 3, f"three regions are promised, networks tell of {regions}")

for region in regions:
    found.unless(networks[region].get("internal"), f"network {region}: has a way out")
    for service in SERVICES:
        found.unless(f"{region}-{service}" in services, f"{region} has no {service}")
        own = list(services.get(f"{region}-{service}", {}).get("networks", []))
        wanted = [region] if service in ("postgres", "redis") else [region, "mesh"]
        found.unless(own == wanted, f"{region}-{service}: is on {own}, not on {wanted}")

for name, service in services.items():
    one_shot = service.get("restart") == "no"
    found.unless("healthcheck" in service or "build" in service or one_shot, f"{name}: has no health check")
    found.unless("restart" in service, f"{name}: has no restart policy")
    for limit in ("cpus", "mem_limit", "pids_limit"):
        found.unless(limit in service, f"{name}: has no {limit}")
    found.unless("no-new-privileges:true" in service.get("security_opt", []), f"{name}: may gain privileges")
    found.unless(service["image"].rpartition(":")[2] not in ("", "latest"), f"{name}: its image names no version")
    if "build" in service:
        found.unless(service["build"]["target"] in stages, f"{name}: the Dockerfile has no stage {service['build']['target']}")
        found.unless((ROOT / "deploy/compose" / service["build"]["context"]).resolve() == ROOT, f"{name}: is built from another folder")
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("."):
            found.unless((ROOT / "deploy/compose" / source).exists(), f"{name}: {source} does not exist")
        else:
            found.unless(source in volumes, f"{name}: volume {source} is not declared")
    for secret in service.get("secrets", []):
        source = secret if isinstance(secret, str) else secret["source"]
        found.unless(source in secrets, f"{name}: secret {source} is not declared")
    for other, how in (service.get("depends_on") or {}).items():
        found.unless(other in services, f"{name}: depends on {other}, which does not exist")
        healthy = how["condition"] == "service_completed_successfully" or "healthcheck" in services[other] or "build" in services[other]
        found.unless(healthy, f"{name}: waits for the health of {other}, which has no check")
    for key, value in (service.get("environment") or {}).items():
        secret = re.search(r"PASSWORD|SECRET|_KEY$|MASTER", key) and not re.search(r"_FILE$", key)
        found.unless(not secret, f"{name}: {key} is written into the compose file")
        found.unless(not re.search(r"://[^/]*:[^/]*@", str(value)), f"{name}: {key} carries a password")
    for port in service.get("ports", []):
        found.unless(str(port).startswith("${BIND_ADDRESS:-127.0.0.1}:"), f"{name}: {port} is open to the network by default")

quic = {name: service["environment"]["GLOBAL_SYNC_PEERS"] for name, service in services.items() if name.endswith("-global-sync")}
for name, peers in quic.items():
    addresses = {peer.partition("=")[2].split(":")[0] for peer in peers.split(",")}
    found.unless(addresses == set(quic) - {name}, f"{name}: peers with {sorted(addresses)}")
found.exit()
