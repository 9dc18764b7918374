"""The files in cluster/, as far as they can be tried without one: by what Ray itself does with them, and by KubeRay's fields.

jsonschema comes with Ray, which validates the files of `ray up` by it.
"""

import copy
import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest

from aft_ray.cli import load_job
from aft_ray.config import ResourcesConfig

ROOT = Path(__file__).parent.parent.parent
CLUSTER = ROOT / "cluster"
FIELDS = json.loads((Path(__file__).parent / "kuberay_fields.json").read_text())
WORKERS = {"cpu", "sampling", "training"}
LAUNCHER = ["aws.yaml", "gcp.yaml"]
KUBERAY = ["kuberay_job.yaml", "kuberay_cluster.yaml"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
(RAY,) = (found.group(1) for line in PROJECT["dependencies"] if (found := re.fullmatch(r"ray\[.*\]==(.*)", line)))


def load(name):
    return yaml.safe_load((CLUSTER / name).read_text())


def cluster_spec(name):
    spec = load(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def autoscaling(name):
    """What Ray's autoscaler works by: a file of `ray up` with defaults, or what Ray makes of a RayCluster in KubeRay."""
    if name in LAUNCHER:
        return prepare_config(load(name))
    return _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "c", "namespace": "n"}, "spec": cluster_spec(name)})


def check_fields(resource):
    """Raises ValidationError. As the API server, which drops unknown fields or refuses them."""
    schema = {"$schema": FIELDS["$schema"], "$ref": f"#/$defs/{resource['kind']}", "$defs": FIELDS["$defs"]}
    jsonschema.Draft202012Validator(schema).validate(resource)


def launched(name, alone=(), gang=()):
    """Nodes that Ray starts for bundles that are asked for one by one, and for those of a placement group: type to number."""
    config = AutoscalingConfig(autoscaling(name), skip_content_hash=True)
    make = ResourceRequestUtil.make
    reply = ResourceDemandScheduler(event_logger=None).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count([make(bundle) for bundle in alone]),
            gang_resource_requests=[GangResourceRequest(requests=[make(bundle) for bundle in gang])] if gang else [],
        )
    )
    assert not reply.infeasible_resource_requests
    assert not reply.infeasible_gang_resource_requests
    return {request.instance_type: request.count for request in reply.to_launch if request.instance_type in WORKERS}


def settings(name):
    """Those that a file's header says it is made for."""
    comment = "".join(line[1:] for line in (CLUSTER / name).read_text().splitlines() if line.startswith("#"))
    return ResourcesConfig.model_validate(yaml.safe_load(re.search(r"resources: (\{training_workers.*?\})", comment).group(1)))


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_up_takes_the_file(name):
    validate_config(autoscaling(name))


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_up_refuses_a_broken_copy(name):
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config(load(name) | {"idle_timeout": 5}))
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(prepare_config(load(name) | {"head_node_type": "heads"}))
    broken = load(name)
    broken["available_node_types"]["sampling"]["min_worker"] = 0
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        validate_config(prepare_config(broken))


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_knows_every_field(name):
    check_fields(load(name))


@pytest.mark.parametrize("name", KUBERAY)
def test_a_misspelt_or_missing_field_of_kuberays_is_told(name):
    resource = load(name)
    group = resource["spec"].get("rayClusterSpec", resource["spec"])["workerGroupSpecs"][0]
    for where, misspelt in [(group, "minReplica"), (group["template"]["spec"], "toleration"), (resource["spec"], "backOffLimit")]:
        where[misspelt] = 0
        with pytest.raises(jsonschema.ValidationError, match=misspelt):
            check_fields(resource)
        del where[misspelt]
    check_fields(resource)
    del group["maxReplicas"]
    with pytest.raises(jsonschema.ValidationError, match="maxReplicas"):
        check_fields(resource)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(FIELDS)
    named = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(FIELDS)))
    assert named | {"RayJob", "RayCluster"} == set(FIELDS["$defs"])


def test_both_kuberay_files_have_the_same_cluster():
    job, cluster = (cluster_spec(name) for name in KUBERAY)
    assert job == cluster


@pytest.mark.parametrize("name", LAUNCHER + KUBERAY)
def test_workers_scale_to_zero_and_the_head_does_no_work(name):
    config = autoscaling(name)
    types = copy.deepcopy(config["available_node_types"])
    head = types.pop(config["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert not head["resources"].get("GPU")
    assert set(types) == WORKERS
    assert all(node_type["min_workers"] == 0 < node_type["max_workers"] for node_type in types.values())
    assert config["max_workers"] == sum(node_type["max_workers"] for node_type in types.values())
    assert {name: (node_type["resources"]["CPU"], node_type["resources"].get("GPU")) for name, node_type in types.items()} == {
        "cpu": (16, None),
        "sampling": (8, 8),
        "training": (80, 8),
    }


@pytest.mark.parametrize("name", LAUNCHER + KUBERAY)
def test_ray_starts_for_each_stage_the_nodes_that_are_meant_for_it(name):
    resources = settings(name)
    worker = {"CPU": resources.cpus_per_training_worker, "GPU": resources.gpus_per_training_worker}
    actor = {"CPU": resources.cpus_per_sampling_actor, "GPU": resources.gpus_per_sampling_actor}
    smallest, largest = resources.sampling_actors
    assert launched(name, gang=[worker] * resources.training_workers) == {"training": 2}
    assert launched(name, alone=[actor] * smallest) == {"sampling": 1}
    assert launched(name, alone=[actor] * largest) == {"sampling": 4}
    assert launched(name, alone=[{"CPU": 1}] * 20) == {"cpu": 2}


def test_training_would_go_to_sampling_nodes_but_for_its_cpus():
    """What the headers say of CPUs is needed: Ray's autoscaler knows no other difference between GPUs."""
    assert "sampling" in launched("gcp.yaml", gang=[{"CPU": 1, "GPU": 1}] * 16)


@pytest.mark.parametrize("name", LAUNCHER + KUBERAY)
def test_only_training_and_the_head_are_on_demand(name):
    if name in KUBERAY:
        pods = {group["groupName"]: group["template"]["spec"] for group in cluster_spec(name)["workerGroupSpecs"]}
        spot = {group for group, pod in pods.items() if any("spot" in toleration["key"] for toleration in pod["tolerations"])}
    else:
        nodes = {node_type: entry["node_config"] for node_type, entry in load(name)["available_node_types"].items()}
        spot = {node_type for node_type, node in nodes.items() if "spot" in json.dumps(node).lower()}
    assert spot == {"cpu", "sampling"}


@pytest.mark.parametrize("name", KUBERAY)
def test_pods_are_whole(name):
    """What KubeRay and Kubernetes find out only when pods start."""
    spec = cluster_spec(name)
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["authOptions"] == {"mode": "token"}
    for pod in [group["template"]["spec"] for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]]:
        (container,) = pod["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == {"storage": "/storage", "shm": "/dev/shm"}
        assert {volume["name"] for volume in pod["volumes"]} == set(mounted)
        assert pod["restartPolicy"] == "Never", "autoscaler v2 asks for it"
        assert container["resources"]["limits"] == container["resources"]["requests"]


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_dashboard_is_on_localhost_and_asks_for_a_token(name):
    config = load(name)
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]


@pytest.mark.parametrize("name", KUBERAY)
def test_under_kuberay_the_dashboard_asks_for_a_token(name):
    assert cluster_spec(name)["authOptions"] == {"mode": "token"}


def test_versions_are_those_of_the_package():
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE))
    assert f">={arguments['PYTHON_VERSION']}" == PROJECT["requires-python"]
    assert arguments["RAY_VERSION"] == RAY
    for name in KUBERAY:
        assert cluster_spec(name)["rayVersion"] == RAY
    for name in LAUNCHER:
        assert f'"ray[default]=={RAY}"' in (CLUSTER / name).read_text()


def test_all_nodes_have_the_same_image_of_this_version():
    images = {found for file in CLUSTER.iterdir() for found in re.findall(r"\b[\w./-]*/aft-ray:[\w.]+", file.read_text())}
    assert images == {f"EDIT/aft-ray:{PROJECT['version']}"}


@pytest.mark.parametrize("name", LAUNCHER + KUBERAY)
def test_what_is_to_be_edited_is_marked(name):
    for line in (CLUSTER / name).read_text().splitlines():
        content, _, comment = line.partition(" #")
        if "EDIT" in content and not content.lstrip().startswith("#"):
            assert "EDIT" in comment, line


@pytest.mark.parametrize("name", [*LAUNCHER, *KUBERAY])
def test_the_files_are_made_for_the_job_that_they_name(name):
    job = load_job(CLUSTER.parent / "jobs" / "aft_llama70b.py")
    assert settings(name) == job.resources
    assert "jobs/aft_llama70b.py" in (CLUSTER / name).read_text()
