//! Whole jobs whose artifact store is a server, as in a cloud, and what its faults come to.

mod faults;
mod recovered;

use super::harness::{Cluster, hash, root, superglue, text, tiny_cb};
use crate::stores::servers::{self, Cloud};
use ptv2_common::storage::StoreAddress;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

/// A coordinator whose store is this place in a cloud, seen through this address.
fn serve_on(
    cloud: &Cloud,
    (address, prefix): (SocketAddr, &str),
    data: &Path,
    more: &str,
) -> Cluster {
    let mut cluster = with_rights(cloud);
    cluster.serve_by(&config(&cluster, &cloud.at(address, prefix), data, more));
    cluster
}

/// One of which nothing runs yet, with the credentials of a cloud.
fn with_rights(cloud: &Cloud) -> Cluster {
    let mut cluster = Cluster::new("ptv2d");
    for (name, value) in cloud.variables {
        cluster.set(name, value.into());
    }
    cluster
}

fn config(cluster: &Cluster, store: &StoreAddress, data: &Path, more: &str) -> String {
    format!(
        "listen = \"127.0.0.1:0\"\nstate = {:?}\nstore = {:?}\nroots = [{data:?}, {:?}]\n\
         [storage]\nendpoint = {:?}\nallow_http = true\n{more}\n\
         [limits]\ngrowth_delay = \"100ms\"\n",
        cluster.state(),
        store.url,
        root(),
        store.settings.endpoint.as_ref().unwrap(),
    )
}

/// Files by name.
type Files = BTreeMap<String, Vec<u8>>;

/// All files of a folder.
fn files(folder: &Path) -> Files {
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().display().to_string();
    entries.map(|path| (name(&path), std::fs::read(&path).unwrap())).collect()
}

/// Where the whole job's coordinator has its store. Recovery names it as a root, which has no spaces.
const HERE: &str = "whole-job/here";

/// A job from submit to pulled files, which are the same whichever way they come, and a job of the same
/// result as one in a folder. When its coordinator is gone, the bucket has all of it.
fn whole_job(cloud: &Cloud) {
    let Some(data) = superglue() else { return };
    let job = tiny_cb(&data, "checkpoint.every = 2");
    let mut calm = Cluster::by_file(&data);
    calm.worker(1, &[]);
    let expected = hash(&calm.run(&job, &[]));
    drop(calm);

    let mut cluster = serve_on(cloud, (cloud.listens, HERE), &data, "");
    cluster.worker(1, &[]);
    let status = cluster.run(&job, &["--idempotency-key", "k"]);
    assert_eq!(hash(&status), expected, "{status:#}");
    assert!(!cluster.state().join("store").exists());
    let id = status["id"].as_str().unwrap();
    assert_eq!(cluster.submit(&job, &["--idempotency-key", "k"]), id);

    let pull = |to: &str, more: &[&str]| {
        let mut command = cluster.client();
        command.args(["pull", id, "--format", "native", "--to", to]).args(more);
        command
    };
    let through = pull("through", &[]).output().unwrap();
    assert!(through.status.success(), "{}", text(&through.stderr));
    let direct = pull("direct", &["--direct"]).envs(cloud.variables).output().unwrap();
    assert!(direct.status.success(), "{}", text(&direct.stderr));
    let files = |name: &str| files(&cluster.folder.path().join(name));
    assert!(files("through").contains_key("state.safetensors"));
    assert_eq!(files("through"), files("direct"));

    // Whoever has no rights to the bucket needs none for the other way.
    let mut stranger = cloud.variables;
    stranger[1].1 = "bm90IHRoZSBrZXk=";
    let refused = pull("refused", &["--direct"]).envs(stranger).output().unwrap();
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("credentials"), "{said}");
    for secret in [cloud.variables[1].1, stranger[1].1] {
        assert!(!said.contains(secret) && !cluster.logs().contains(secret), "{said}");
    }
    let pulled = files("through");
    // Its disk goes with it.
    drop(cluster);
    recovered::from_the_bucket(cloud, &data, &status, &pulled);
}

#[test]
fn a_job_on_s3_goes_from_submit_to_pulled_files() {
    whole_job(servers::s3());
}

#[test]
#[ignore = "`make test-stores` runs it: it sets up another server"]
fn a_job_on_azure_goes_from_submit_to_pulled_files() {
    whole_job(servers::azure());
}

/// Wrong credentials are told where the coordinator is started, with what to do and without them.
#[test]
fn a_coordinator_without_rights_to_its_store_says_so() {
    let Some(data) = superglue() else { return };
    let cloud = servers::s3();
    let cluster = Cluster::new("ptv2d");
    let store = cloud.at(cloud.listens, "refused");
    let config = format!(
        "state = {:?}\nlisten = \"127.0.0.1:0\"\nstore = {:?}\nroots = [{data:?}]\n\
         [storage]\nendpoint = {:?}\nallow_http = true\nretries = 0\n",
        cluster.state(),
        store.url,
        store.settings.endpoint.unwrap(),
    );
    let file = cluster.file("coordinator.toml", &config);
    let started = std::process::Command::new(super::harness::binary("ptv2d"))
        .args(["coordinator", "--config", &file])
        .env("AWS_ACCESS_KEY_ID", cloud.variables[0].1)
        .env("AWS_SECRET_ACCESS_KEY", "of somebody else")
        .output()
        .unwrap();
    let said = text(&started.stderr);
    assert!(!started.status.success(), "{said}");
    for part in ["SignatureDoesNotMatch", "credentials in this process's environment"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!said.contains("of somebody else"), "{said}");
}
