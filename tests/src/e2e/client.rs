//! What a person and a scheduler see: exit codes, messages, pulled files, the API's edges.

use super::harness::{Cluster, copy_tiny, hash, superglue, text, tiny, tiny_cb};
use serde_json::Value;
use std::process::Output;

fn code(run: &Output) -> i32 {
    run.status.code().unwrap()
}

#[test]
fn each_end_has_its_exit_code() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::start(0, 1);
    let job = tiny_cb(&data, "");

    let file = cluster.file("typo.toml", &job.replace("batch_size", "batch_sise"));
    let run = cluster.ctl(&["submit", &file]);
    assert_eq!(code(&run), 2, "a refused spec");
    assert!(text(&run.stderr).contains("batch_sise"), "{}", text(&run.stderr));
    assert!(run.stdout.is_empty());

    let run =
        cluster.client().args(["status"]).env("PTV2_COORDINATOR", "http://127.0.0.1:9").output();
    let run = run.unwrap();
    assert_eq!(code(&run), 3, "unreachable");
    assert!(text(&run.stderr).contains("127.0.0.1:9"), "{}", text(&run.stderr));

    let run = cluster.ctl(&["status", "nothing"]);
    assert_eq!(code(&run), 4, "no such job");

    let wrong = cluster.file("wrong-token", &"0".repeat(64));
    let run = cluster.client().args(["status"]).env("PTV2_TOKEN_FILE", wrong).output().unwrap();
    assert_eq!(code(&run), 6, "a wrong token: {}", text(&run.stderr));

    // No workers: it waits, and says why.
    let id = cluster.submit(&job, &[]);
    let run = cluster.ctl(&["wait", &id, "--timeout", "1s"]);
    assert_eq!(code(&run), 7, "the time-out passed");
    let status = cluster.is_queued(&id);
    assert!(status["remedy"].to_string().contains("ptv2d worker"), "{status:#}");

    assert_eq!(code(&cluster.ctl(&["cancel", &id])), 0);
    assert_eq!(code(&cluster.ctl(&["wait", &id])), 5, "cancelled");

    // A backbone that changes after the submit fails the job with what was found.
    let copy = cluster.folder.path().join("backbone");
    copy_tiny(&copy);
    let moved = job.replace(&tiny().display().to_string(), &copy.display().to_string());
    let id = cluster.submit(&moved, &[]);
    let weights = copy.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    cluster.worker(1, &[]);
    let run = cluster.ctl(&["wait", &id, "--timeout", "600s"]);
    assert_eq!(code(&run), 1, "failed: {}", text(&run.stderr));
    let reason = cluster.json(&["status", &id])["reason_text"].to_string();
    assert!(reason.contains("SHA-256"), "{reason}");
}

#[test]
fn a_checkpoint_is_pulled_and_taken_up_by_another_job() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(1, 1);
    let job = tiny_cb(&data, "method.hidden_dropout_prob = 0.0\nmethod.attention_dropout = 0.0");
    let first = cluster.run(&job, &[]);
    let id = first["id"].as_str().unwrap();
    let folder = |name: &str| cluster.folder.path().join(name);

    let pull = |more: &[&str]| cluster.ctl(&[&["pull", id], more].concat());
    let run = pull(&["--checkpoint", "last", "--to", "peft"]);
    assert_eq!(code(&run), 0, "{}", text(&run.stderr));
    assert_eq!(text(&run.stdout).trim(), folder("peft").display().to_string());
    let again = pull(&["--checkpoint", "last", "--to", "peft"]);
    assert_eq!(code(&again), 2, "an existing target");
    assert!(text(&again.stderr).contains("--force"), "{}", text(&again.stderr));
    assert_eq!(code(&pull(&["--checkpoint", "last", "--to", "peft", "--force"])), 0);
    let run = pull(&["--checkpoint", "last", "--to", "direct", "--direct"]);
    assert_eq!(code(&run), 0, "{}", text(&run.stderr));
    let run = pull(&["--checkpoint", "last", "--to", "native", "--format", "native"]);
    assert_eq!(code(&run), 0, "{}", text(&run.stderr));
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let read = |place: &str| std::fs::read(folder(place).join(name)).unwrap();
        assert_eq!(read("peft"), read("direct"), "{name}");
    }
    assert_eq!(code(&pull(&["--checkpoint", "7777", "--to", "none"])), 4, "no such checkpoint");

    // Both forms give a job whose state before its first step is the first job's last.
    for place in ["peft", "native"] {
        let adapter = format!("init.adapter=\"{}\"", folder(place).display());
        let more = ["--set", &adapter, "--set", "training.learning_rate=1e-30"];
        let next = cluster.run(&job, &more);
        assert_eq!(next["last"]["value"], first["last"]["value"], "{place}");
        assert_eq!(hash(&next), hash(&first), "{place}");
    }
}

#[test]
fn a_head_only_job_runs_and_has_no_adapter() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(1, 1);
    let status = cluster.run(&tiny_cb(&data, ""), &["--set", "method.kind=\"head\""]);
    assert_eq!(status["plan"]["prefix_parameters"], 0);
    let id = status["id"].as_str().unwrap();
    let run = cluster.ctl(&["pull", id, "--to", "x"]);
    assert_ne!(code(&run), 0);
    assert!(text(&run.stderr).contains("native"), "{}", text(&run.stderr));
    assert!(!cluster.folder.path().join("x").exists());
}

/// `max_steps`, no shuffling and no warm-up: what a step-by-step comparison with another trainer
/// needs. The plan says beforehand what the job then does.
#[test]
fn a_plan_says_what_the_job_does() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(1, 1);
    let job = tiny_cb(&data, "").replace("epochs = 2", "max_steps = 3, shuffle = false");
    let file = cluster.file("plan.toml", &job);
    let plan = cluster.json(&["plan", &file]);
    // 5 positions of 2 layers, key and value, of 32; a head of 3 by 32 and its bias.
    assert_eq!(plan["prefix_parameters"], 5 * 2 * 2 * 32);
    assert_eq!(plan["trainable_parameters"], 5 * 2 * 2 * 32 + 3 * 32 + 3);
    assert_eq!((&plan["train_rows"], &plan["val_rows"]), (&Value::from(37), &Value::from(21)));
    assert_eq!(
        (&plan["steps_per_epoch"], &plan["total_steps"]),
        (&Value::from(4), &Value::from(3))
    );
    let status = cluster.run(&job, &[]);
    assert_eq!(status["plan"], plan);
    let metrics = cluster.json(&["metrics", status["id"].as_str().unwrap()]);
    let rows = metrics.as_array().unwrap();
    assert_eq!(rows.len(), 4, "three steps and the evaluation at the end: {metrics}");
    let rates: Vec<f64> = rows.iter().filter_map(|row| row["learning_rate"].as_f64()).collect();
    assert_eq!(rates, [1e-2, 1e-2 * 2.0 / 3.0, 1e-2 / 3.0]);
    assert_eq!(rows[3]["split"], "val");
    assert!(rows[3]["accuracy"].is_number(), "{metrics}");
}

#[test]
fn the_api_describes_itself_and_wants_a_token() {
    let cluster = Cluster::start(0, 1);
    let client = reqwest::blocking::Client::new();
    let get = |path: &str, token: Option<&str>| {
        let mut request = client.get(format!("{}{path}", cluster.url()));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().unwrap();
        (answer.status().as_u16(), answer.text().unwrap())
    };
    let token = cluster.token();
    assert_eq!(get("/healthz", None).0, 200);
    assert_eq!(get("/v1/jobs", None).0, 401);
    assert_eq!(get("/v1/jobs", Some("else")).0, 401);
    assert_eq!(get("/v1/jobs", Some(&token)), (200, "[]".into()));
    // The workers' token is of another kind.
    let worker = std::fs::read_to_string(cluster.state().join("worker-token")).unwrap();
    assert_eq!(get("/v1/jobs", Some(worker.trim())).0, 403);
    let (_, problem) = get("/v1/jobs/none", Some(&token));
    let problem: Value = serde_json::from_str(&problem).unwrap();
    assert_eq!((&problem["status"], &problem["code"]), (&404.into(), &"no_such_job".into()));
    let (_, document) = get("/v1/openapi.json", Some(&token));
    let document: Value = serde_json::from_str(&document).unwrap();
    for path in ["/v1/jobs", "/v1/plan", "/v1/jobs/{job}/checkpoints/{which}", "/v1/workers"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    assert!(
        document["components"]["schemas"]["JobStatus"]["properties"]["tuned_sha256"].is_object()
    );
    let (_, metrics) = get("/metrics", Some(&token));
    assert!(metrics.contains("ptv2_jobs{state=\"queued\"} 0"), "{metrics}");
}
