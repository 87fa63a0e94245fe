//! Servers of object stores, in folders and on ports of their own, gone with the test's process.

use crate::e2e::harness::{poll, root};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use ptv2_common::storage::{Environment, Store, StoreAddress, StoreSettings, put_create};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

/// The bucket, and the container, that each server has.
pub(crate) const BUCKET: &str = "ptv2";

/// Runs a server until it ends or this shell's input does, which is a pipe of the test's process and closes
/// however that dies. What the server leaves goes with it.
const WITH_PARENT: &str = r#"
exec 3<&0
folder=$1 leftovers=$2
shift 2
"$@" </dev/null >"$folder/log" 2>&1 &
server=$!
( read -r _ <&3; kill -9 $server ) 2>/dev/null &
watch=$!
wait $server
kill $watch 2>/dev/null
rm -rf "$folder" $leftovers
"#;

/// A server's process.
struct Server {
    shell: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a command, which may write into this folder and leave files elsewhere.
    fn start(folder: TempDir, leftovers: &str, command: &[String]) -> Self {
        let folder = folder.keep();
        let mut shell = Command::new("bash");
        shell.args(["-c", WITH_PARENT, "bash"]).arg(&folder).arg(leftovers).args(command);
        // It would say that it killed the server.
        let silent = shell.stdout(Stdio::null()).stderr(Stdio::null());
        let shell = silent.stdin(Stdio::piped()).spawn().unwrap();
        Self { shell, log: folder.join("log") }
    }

    /// Waits until it serves; false if it has ended, as where another took its port first.
    fn serves(&mut self, what: &str, mut look: impl FnMut() -> bool) -> bool {
        let log = std::fs::read_to_string(&self.log);
        let serves = poll(what, || {
            if self.shell.try_wait().unwrap().is_some() {
                return Some(false);
            }
            look().then_some(true)
        });
        if !serves {
            println!("{what} ended: {}", log.unwrap_or_default());
        }
        serves
    }
}

/// Ports that are free now. They lie below those that the system gives to whoever asks for any.
fn ports<const N: usize>() -> [u16; N] {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut found = [0; N];
    for at in 0..N {
        found[at] = std::iter::repeat_with(|| fastrand::u16(15_000..32_000))
            .find(|port| !found.contains(port) && free(port))
            .unwrap();
    }
    found
}

/// Runs a set-up script and gives the folder that its last line names.
fn set_up(script: &str) -> PathBuf {
    let run = Command::new("bash").arg(root().join("scripts").join(script)).output().unwrap();
    assert!(run.status.success(), "{script}: {}", String::from_utf8_lossy(&run.stderr));
    let said = String::from_utf8_lossy(&run.stdout);
    let (_, rest) = said.lines().last().unwrap().split_once(": ").unwrap();
    rest.split(' ').next().unwrap().into()
}

/// A store's server: where it listens, and what its clients need.
pub(crate) struct Cloud {
    pub(crate) listens: SocketAddr,
    pub(crate) variables: [(&'static str, &'static str); 2],
    scheme: &'static str,
    /// What follows the address in an endpoint.
    account: &'static str,
    _server: Server,
}

impl Cloud {
    /// A place in the store, as seen through this address.
    pub(crate) fn at(&self, address: SocketAddr, prefix: &str) -> StoreAddress {
        let settings = StoreSettings {
            endpoint: Some(format!("http://{address}{}", self.account)),
            allow_http: true,
            ..StoreSettings::default()
        };
        StoreAddress { url: format!("{}://{BUCKET}/{prefix}", self.scheme), settings }
    }

    /// Opens a place in the store.
    pub(crate) fn open(&self, prefix: &str) -> Store {
        let address = self.at(self.listens, prefix);
        address.open_in(&Environment::of(&self.variables)).unwrap()
    }

    fn takes_objects(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = self.open("first");
        let first = || runtime.block_on(put_create(&store, "object", "1".into())).ok();
        poll("a first object", first);
    }
}

/// The S3 server of this process. It checks signatures.
pub(crate) fn s3() -> &'static Cloud {
    static SERVER: OnceLock<Cloud> = OnceLock::new();
    SERVER.get_or_init(|| {
        let program = set_up("seaweedfs.sh").join("weed");
        let cloud = std::iter::repeat_with(|| seaweedfs(&program)).take(3).flatten().next();
        let cloud = cloud.expect("SeaweedFS starts");
        cloud.takes_objects();
        cloud
    })
}

fn seaweedfs(program: &Path) -> Option<Cloud> {
    let (key, secret) = ("key-of-the-tests", "secret-of-the-tests");
    let folder = tempfile::tempdir().unwrap();
    let identities = serde_json::json!({"identities": [{
        "name": "tests",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }]});
    let config = folder.path().join("s3.json");
    std::fs::write(&config, identities.to_string()).unwrap();
    let place = folder.path().display().to_string();
    let all: [u16; 8] = ports();
    let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc] = all;
    let mut command = vec![program.display().to_string(), "server".into()];
    command.extend([
        format!("-dir={place}"),
        "-ip=127.0.0.1".into(),
        "-ip.bind=127.0.0.1".into(),
        format!("-master.port={master}"),
        format!("-master.port.grpc={master_grpc}"),
        format!("-volume.port={volume}"),
        format!("-volume.port.grpc={volume_grpc}"),
        "-filer".into(),
        format!("-filer.port={filer}"),
        format!("-filer.port.grpc={filer_grpc}"),
        format!("-filer.localSocket={place}/filer.sock"),
        "-s3".into(),
        format!("-s3.port={s3}"),
        format!("-s3.port.grpc={s3_grpc}"),
        format!("-s3.localSocket={place}/s3.sock"),
        format!("-s3.config={}", config.display()),
        "-s3.port.iceberg=0".into(),
        "-s3.port.lance=0".into(),
        "-s3.iam=false".into(),
        "-master.volumeSizeLimitMB=64".into(),
        "-volume.max=20".into(),
        // It would tell its makers.
        "-master.telemetry=false".into(),
    ]);
    let leftovers = [master_grpc, volume_grpc, filer_grpc, s3_grpc]
        .map(|port| format!("/tmp/seaweedfs-*-grpc-{port}.sock"));
    let mut server = Server::start(folder, &leftovers.join(" "), &command);
    ptv2_common::tls::install_provider();
    let client = reqwest::blocking::Client::new();
    let status = |answer: reqwest::Result<reqwest::blocking::Response>| {
        answer.map_or(0, |answer| answer.status().as_u16())
    };
    let folder = format!("http://127.0.0.1:{filer}/buckets/{BUCKET}/");
    let bucket = format!("http://127.0.0.1:{s3}/{BUCKET}/");
    let serves = server.serves("SeaweedFS", || status(client.post(&folder).send()) == 201)
        && server.serves("SeaweedFS's S3", || status(client.get(&bucket).send()) == 403);
    serves.then(|| Cloud {
        listens: (Ipv4Addr::LOCALHOST, s3).into(),
        variables: [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)],
        scheme: "s3",
        account: "",
        _server: server,
    })
}

/// The server of this process that speaks as Azure's blob store does.
pub(crate) fn azure() -> &'static Cloud {
    static SERVER: OnceLock<Cloud> = OnceLock::new();
    SERVER.get_or_init(|| {
        let program = set_up("azurite.sh");
        let cloud = std::iter::repeat_with(|| azurite(&program)).take(3).flatten().next();
        let cloud = cloud.expect("Azurite starts");
        cloud.takes_objects();
        cloud
    })
}

/// The account of every Azurite, and its key, which its documentation names.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

fn azurite(program: &Path) -> Option<Cloud> {
    let folder = tempfile::tempdir().unwrap();
    let [port]: [u16; 1] = ports();
    let main = program.join("node_modules/azurite/dist/src/blob/main.js");
    let mut command =
        [program.join("node/bin/node"), main].map(|it| it.display().to_string()).to_vec();
    command.extend(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()].map(str::to_owned));
    // Without the second it would tell its makers.
    let flags =
        ["--inMemoryPersistence", "--disableTelemetry", "--silent", "--skipApiVersionCheck"];
    command.extend(flags.map(str::to_owned));
    let mut server = Server::start(folder, "", &command);
    let listens: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
    ptv2_common::tls::install_provider();
    let client = reqwest::blocking::Client::builder().timeout(Duration::from_secs(5)).build();
    let client = client.unwrap();
    let serves = server.serves("Azurite", || container(&client, listens) == Some(201));
    serves.then(|| Cloud {
        listens,
        variables: [
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
            ("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY),
        ],
        scheme: "az",
        account: "/devstoreaccount1",
        _server: server,
    })
}

/// Makes the container; what the server says to it.
fn container(client: &reqwest::blocking::Client, listens: SocketAddr) -> Option<u16> {
    let url = format!("http://{listens}/{ACCOUNT}/{BUCKET}?restype=container");
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.method_mut() = reqwest::Method::PUT;
    *request.uri_mut() = url.parse().unwrap();
    request.headers_mut().insert(reqwest::header::CONTENT_LENGTH, 0.into());
    let key = AzureCredential::AccessKey(AzureAccessKey::try_new(ACCOUNT_KEY).unwrap());
    AzureAuthorizer::new(&key, ACCOUNT).try_authorize(&mut request).unwrap();
    let answer = client.put(url).headers(request.headers().clone()).send().ok()?;
    Some(answer.status().as_u16())
}
