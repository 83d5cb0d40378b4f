//! `hf://` addresses: downloaded once, checked, resumed, and refused with advice.

use std::{
    fs,
    path::{Path, PathBuf},
};

use neva_schemas::exit_class;
use serde_json::Value;

use crate::{
    hub_server::{COMMIT, HubServer, Reply, Repository, git_hash, sha256},
    import::hub_tensors,
    process::Program,
    tensor_files::pickle,
};

const WEIGHTS: &str = "model.safetensors";
const TOKEN: &str = "hf_thisIsASecret";

/// Folders of a user.
struct User {
    dir: tempfile::TempDir,
}

impl User {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The model in Hugging Face's cache.
    fn repository(&self) -> PathBuf {
        self.path("hf/hub/models--test--llava")
    }

    fn program(&self, uri: &str, arguments: &[&str]) -> Program {
        let text = |name: &str| self.path(name).display().to_string();
        Program::new("", arguments)
            .without(&[
                "HF_TOKEN",
                "HUGGING_FACE_HUB_TOKEN",
                "HF_TOKEN_PATH",
                "HF_HUB_CACHE",
                "HUGGINGFACE_HUB_CACHE",
            ])
            .without(&[
                "HF_HUB_OFFLINE",
                "TRANSFORMERS_OFFLINE",
                "HTTP_PROXY",
                "http_proxy",
                "ALL_PROXY",
                "all_proxy",
            ])
            .env(&[
                ("HF_ENDPOINT", uri),
                ("HF_HOME", &text("hf")),
                ("NEMO_MODELS_CACHE", &text("models")),
                ("HOME", &text("home")),
            ])
    }

    /// Imports the model. Returns exit code, standard output and standard error.
    fn import(&self, uri: &str, variables: &[(&str, &str)]) -> (i32, String, String) {
        let program = self.program(uri, &["import", "hf://test/llava", "--output", "json"]).env(variables);
        let (code, stdout, stderr, _dir) = program.run();
        for text in [&stdout, &stderr] {
            assert!(!text.contains(TOKEN), "a secret: {text}");
        }
        (code, stdout, stderr)
    }

    fn nothing_is_left(&self) {
        let names = |path: &Path| {
            fs::read_dir(path).map_or(0, |entries| {
                entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir()).count()
            })
        };
        assert_eq!(names(&self.path("models/test")), 0, "an incomplete model was imported");
    }
}

#[test]
fn a_model_is_fetched_once_and_placed() {
    let (user, server) = (User::new(), HubServer::of(Repository::model()));
    let (code, stdout, stderr) = user.import(&server.uri, &[("HF_TOKEN", TOKEN)]);
    assert_eq!(code, 0, "{stderr}");
    let imported: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(imported["address"], "nemo://test/llava");
    assert_eq!(imported["path"], user.path("models/test/llava").display().to_string());
    assert_eq!((&imported["kind"], &imported["reused"]), (&"model".into(), &false.into()));
    let mut asked = server.files();
    asked.sort();
    assert_eq!(
        asked,
        ["config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"],
        "only what is needed"
    );
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.token == Some(format!("Bearer {TOKEN}")))
    );
    let files = Repository::model().files;
    for name in &asked {
        assert_eq!(fs::read(user.path("models/test/llava").join(name)).unwrap(), files[name], "{name}");
    }
    // The layout of `huggingface_hub`.
    assert_eq!(fs::read_to_string(user.repository().join("refs/main")).unwrap(), COMMIT);
    let snapshot = user.repository().join("snapshots").join(COMMIT);
    assert_eq!(
        fs::read_link(snapshot.join(WEIGHTS)).unwrap(),
        Path::new("../../blobs").join(sha256(&files[WEIGHTS]))
    );
    assert_eq!(
        fs::read_link(snapshot.join("config.json")).unwrap(),
        Path::new("../../blobs").join(git_hash(&files["config.json"]))
    );
    // No file is requested again, with or without HF_HUB_OFFLINE.
    let asked = server.requests().len();
    for variables in [&[][..], &[("HF_HUB_OFFLINE", "1")]] {
        let (code, stdout, stderr) = user.import(&server.uri, variables);
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["reused"], true);
    }
    assert_eq!(server.requests().len(), asked);
}

#[test]
fn a_cache_of_hugging_face_is_used_first() {
    let user = User::new();
    let snapshot = user.repository().join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(user.repository().join("refs")).unwrap();
    fs::write(user.repository().join("refs/main"), COMMIT).unwrap();
    let files = Repository::model().files;
    for name in ["config.json", WEIGHTS] {
        fs::write(snapshot.join(name), &files[name]).unwrap();
    }
    // The cache has no tokenizer, and only the hub knows whether the model has one.
    let (code, _, stderr) = user.import("http://127.0.0.1:1", &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(code, 0, "{stderr}");
    let server = HubServer::of(Repository::model());
    let (code, stdout, stderr) = user.import(&server.uri, &[]);
    assert_eq!(server.files(), ["tokenizer.json", "tokenizer_config.json"], "{stderr}");
    assert_eq!(code, 2, "another model is there: {stderr}");
    assert!(stdout.contains("already exists"), "{stdout}");
}

#[test]
fn a_lost_connection_is_resumed() {
    let model = Repository::model();
    let half = model.files[WEIGHTS].len() / 2;
    let server = HubServer::start(move |request, before| {
        let mut reply = model.answer(request);
        if request.path.ends_with(WEIGHTS) && before == 0 {
            reply.cut = Some(half);
        }
        reply
    });
    let user = User::new();
    let (code, _, stderr) = user.import(&server.uri, &[]);
    assert_eq!(code, 0, "{stderr}");
    let from: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|request| request.path.ends_with(WEIGHTS))
        .map(|request| request.from)
        .collect();
    assert_eq!(from, [0, half]);
}

#[test]
fn a_killed_download_is_resumed_and_wrong_bytes_are_downloaded_again() {
    let model = Repository::model();
    let weights = model.files[WEIGHTS].clone();
    let cases: [(&[u8], &[usize]); 3] = [(&weights[..1000], &[1000]), (b"of something else", &[17, 0]), (&weights, &[])];
    for (left, from) in cases {
        let (user, server) = (User::new(), HubServer::of(model.clone()));
        let blobs = user.repository().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{}.incomplete", sha256(&weights))), left).unwrap();
        let (code, _, stderr) = user.import(&server.uri, &[]);
        assert_eq!(code, 0, "{stderr}");
        let asked: Vec<_> = server
            .requests()
            .into_iter()
            .filter(|request| request.path.ends_with(WEIGHTS))
            .map(|request| request.from)
            .collect();
        assert_eq!(asked, from);
        assert_eq!(fs::read(user.path("models/test/llava").join(WEIGHTS)).unwrap(), weights);
    }
}

#[test]
fn replies_of_the_hub() {
    let limit = Reply::status(429, &[("Retry-After", "1")]);
    let busy = Reply::status(503, &[]);
    // Reply to the request for the list of files, how often, the exit code, and words of the message.
    let cases: &[(Reply, usize, u8, &[&str])] = &[
        (
            Reply::status(401, &[("X-Error-Code", "GatedRepo")]),
            9,
            exit_class::INPUT,
            &["hf://test/llava", "gated", "HF_TOKEN"],
        ),
        (
            Reply::status(403, &[("X-Error-Code", "GatedRepo")]),
            9,
            exit_class::INPUT,
            &["gated", "accept the model's licence"],
        ),
        (
            Reply::status(401, &[("X-Error-Code", "RepoNotFound")]),
            9,
            exit_class::INPUT,
            &["there is no model hf://test/llava", "check the spelling"],
        ),
        (
            Reply::status(404, &[]),
            9,
            exit_class::INPUT,
            &["there is no model hf://test/llava"],
        ),
        (
            Reply::status(404, &[("X-Error-Code", "RevisionNotFound")]),
            9,
            exit_class::INPUT,
            &["there is no revision", "the default is main"],
        ),
        (
            Reply::status(400, &[]),
            9,
            exit_class::CLUSTER,
            &["the server replied 400", "HF_ENDPOINT"],
        ),
        (limit, 1, exit_class::DONE, &["429", "retrying in 1.0 s"]),
        (busy.clone(), 2, exit_class::DONE, &["503"]),
        (busy, 9, exit_class::CLUSTER, &["503", "4 tries", "run the command again"]),
        (Reply::status(200, &[]), 9, exit_class::CLUSTER, &["the reply is not that of a hub"]),
        (
            Reply::status(302, &[("Location", "/round")]),
            9,
            exit_class::CLUSTER,
            &["too many redirects"],
        ),
    ];
    for (reply, times, class, words) in cases {
        let (model, bad, times) = (Repository::model(), reply.clone(), *times);
        let server = HubServer::start(move |request, before| {
            if request.path == "/round" || (request.path.starts_with("/api/") && before < times) {
                bad.clone()
            } else {
                model.answer(request)
            }
        });
        let user = User::new();
        let (code, stdout, stderr) = user.import(&server.uri, &[]);
        assert_eq!(code, i32::from(*class), "{reply:?}: {stdout}{stderr}");
        let text = format!("{stdout}{stderr}");
        for word in *words {
            assert!(text.contains(word), "{word}: {text}");
        }
        if *class != exit_class::DONE {
            user.nothing_is_left();
        }
    }
}

#[test]
fn a_redirect_to_a_store_gets_no_token() {
    // The store serves paths without their query.
    let model = Repository::model();
    let store = HubServer::start(move |request, _| {
        let path = request.path.split('?').next().unwrap().to_owned();
        model.answer(&crate::hub_server::Request { path, ..request.clone() })
    });
    let model = Repository::model();
    let uri = store.uri.clone();
    let server = HubServer::start(move |request, _| {
        if request.path.starts_with("/api/") {
            model.answer(request)
        } else {
            Reply::status(302, &[("Location", &format!("{uri}{}?Signature=secret", request.path))])
        }
    });
    let user = User::new();
    fs::create_dir_all(user.path("hf")).unwrap();
    fs::write(user.path("hf/token"), format!("{TOKEN}\n")).unwrap();
    let (code, stdout, stderr) = user.import(&server.uri, &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(!format!("{stdout}{stderr}").contains("Signature"));
    assert!(server.requests().iter().all(|request| request.token.is_some()));
    assert!(store.requests().len() >= 4 && store.requests().iter().all(|request| request.token.is_none()));
}

#[test]
fn a_wrong_hash_is_refused_and_removed() {
    for name in [WEIGHTS, "config.json"] {
        let model = Repository::model();
        let server = HubServer::start(move |request, _| {
            let mut reply = model.answer(request);
            if request.path.ends_with(name) {
                reply.body[100] ^= 1;
            }
            reply
        });
        let user = User::new();
        let (code, stdout, _) = user.import(&server.uri, &[]);
        assert_eq!(code, i32::from(exit_class::CLUSTER), "{stdout}");
        let files = Repository::model().files;
        let hash = if name == WEIGHTS {
            sha256(&files[name])
        } else {
            git_hash(&files[name])
        };
        assert!(stdout.contains(&hash) && stdout.contains(name), "{stdout}");
        let blobs = fs::read_dir(user.repository().join("blobs"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        assert!(blobs.into_iter().all(|blob| !blob.to_string_lossy().starts_with(&hash)));
        user.nothing_is_left();
    }
}

#[test]
fn a_repository_without_safetensors() {
    // Pickles are imported, but a run does not read them.
    let mut model = Repository::model();
    model.files.remove(WEIGHTS);
    model.files.insert("pytorch_model.bin".to_owned(), pickle(&hub_tensors()));
    let (user, server) = (User::new(), HubServer::of(model));
    let (code, _, stderr, _dir) = user
        .program(
            &server.uri,
            &["neva_tiny", "--set", "finetune.model.from_pretrained=hf://test/llava"],
        )
        .run();
    assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
    let flat = stderr.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
    assert!(flat.contains("has no model.safetensors; it has pytorch_model.bin"), "{flat}");
    assert!(flat.contains("neva-run import hf://test/llava"), "{flat}");
    let (code, _, stderr) = user.import(&server.uri, &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(server.files().contains(&"pytorch_model.bin".to_owned()));
    assert!(user.path("models/test/llava").join(WEIGHTS).is_file());
    // Nothing is requested again.
    let asked = server.requests().len();
    assert_eq!(user.import(&server.uri, &[("HF_HUB_OFFLINE", "1")]).0, 0);
    assert_eq!(server.requests().len(), asked);
    // Other formats are named.
    let mut model = Repository::model();
    model.files.retain(|name, _| !name.ends_with(".bin") && name != WEIGHTS);
    model.files.insert("tf_model.h5".to_owned(), b"another".to_vec());
    let (user, server) = (User::new(), HubServer::of(model));
    let (code, stdout, _) = user.import(&server.uri, &[]);
    assert_eq!(code, i32::from(exit_class::INPUT), "{stdout}");
    assert!(stdout.contains("has no model.safetensors; it has tf_model.h5"), "{stdout}");
    user.nothing_is_left();
}

/// Every file is hit by faults that pass, one after another; then the model is whole.
#[test]
fn a_download_survives_the_faults_of_a_bad_line() {
    let model = Repository::model();
    let store_is_expired = Reply::status(403, &[]);
    let store = HubServer::start(move |_, _| store_is_expired.clone());
    let expired = store.uri.clone();
    let server = HubServer::start(move |request, before| {
        let whole = model.answer(request);
        let half = whole.body.len() / 2;
        match before {
            0 => Reply::status(503, &[]),
            1 if request.path.ends_with(WEIGHTS) => Reply::status(302, &[("Location", &format!("{expired}/signed"))]),
            1 => Reply::status(429, &[("Retry-After", "1")]),
            2 => Reply { cut: Some(half), ..whole },
            _ => whole,
        }
    });
    let user = User::new();
    let (code, _, stderr) = user.import(&server.uri, &[("HF_TOKEN", TOKEN)]);
    assert_eq!(code, 0, "{stderr}");
    for word in ["503", "429", "the store of the hub replied 403", "the connection was lost"] {
        assert!(stderr.contains(word), "{word}: {stderr}");
    }
    assert!(store.requests().iter().all(|request| request.token.is_none()));
    let files = Repository::model().files;
    for name in ["config.json", WEIGHTS, "tokenizer.json"] {
        assert_eq!(fs::read(user.path("models/test/llava").join(name)).unwrap(), files[name], "{name}");
    }
}

#[test]
fn faults_of_one_file_that_stay() {
    type Fault = fn(&mut Reply);
    let cases: &[(Fault, u8, &[&str])] = &[
        (
            |reply| *reply = Reply::status(403, &[("X-Error-Code", "GatedRepo")]),
            exit_class::INPUT,
            &["hf://test/llava", "gated", "HF_TOKEN"],
        ),
        (
            |reply| *reply = Reply::status(401, &[]),
            exit_class::INPUT,
            &["hf://test/llava", "HF_TOKEN"],
        ),
        (
            |reply| *reply = Reply::status(500, &[]),
            exit_class::CLUSTER,
            &["500", "4 tries", "resumed"],
        ),
        // Fewer bytes than the list of files says.
        (
            |reply| reply.body.truncate(1000),
            exit_class::CLUSTER,
            &["the connection was lost at byte 1000", "4 tries"],
        ),
        // More bytes.
        (|reply| reply.body.extend([0; 100]), exit_class::CLUSTER, &["has the hash"]),
    ];
    for (fault, class, words) in cases {
        let (model, fault) = (Repository::model(), *fault);
        let server = HubServer::start(move |request, _| {
            let mut reply = model.answer(&crate::hub_server::Request {
                from: 0,
                ..request.clone()
            });
            if request.path.ends_with(WEIGHTS) {
                fault(&mut reply);
            }
            reply
        });
        let user = User::new();
        let (code, stdout, stderr) = user.import(&server.uri, &[]);
        assert_eq!(code, i32::from(*class), "{words:?}: {stdout}{stderr}");
        for word in *words {
            assert!(stdout.contains(word), "{word}: {stdout}");
        }
        user.nothing_is_left();
    }
}

#[test]
fn invalid_settings_are_refused_without_a_request() {
    /// Address, environment, message.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: &[Case<'_>] = &[
        ("hf://test/llava", &[("HF_HUB_OFFLINE", "1")], "HF_HUB_OFFLINE forbids its download"),
        (
            "hf://test/llava",
            &[("TRANSFORMERS_OFFLINE", "yes")],
            "HF_HUB_OFFLINE forbids its download",
        ),
        ("hf://test", &[], "write hf://ORG/NAME"),
        ("hf://test/llava@", &[], "a revision is a branch"),
        ("hf://test/llava", &[("HF_TOKEN", "two\nlines")], "HF_TOKEN contains characters"),
        ("hf://test/llava", &[("HF_ENDPOINT", "hub")], "HF_ENDPOINT is not an address"),
        (
            "hf://test/llava",
            &[("HF_ENDPOINT", "http://me:hf_x@hub")],
            "HF_ENDPOINT contains a user",
        ),
    ];
    for (source, variables, message) in cases {
        let (user, server) = (User::new(), HubServer::of(Repository::model()));
        let (code, _, stderr, _dir) = user.program(&server.uri, &["import", source]).env(variables).run();
        assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
        let flat = stderr.split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "");
        assert!(flat.contains(message), "{message}: {stderr}");
        assert!(!stderr.contains("hf_x"), "{stderr}");
        assert_eq!(server.requests(), [], "{stderr}");
    }
}

#[test]
fn a_run_takes_sizes_and_weights_of_a_model_of_the_hub() {
    let (user, server) = (User::new(), HubServer::of(Repository::model()));
    let recipe = "neva_tiny";
    let set = "finetune.model.from_pretrained=hf://test/llava";
    // `show` needs only the config.
    let (code, shown, stderr, _dir) = user.program(&server.uri, &["show", recipe, "--set", set, "--output", "json"]).run();
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(server.files(), ["config.json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert!(shown.to_string().contains("\"intermediate_size\":160"), "{shown}");
    // Its files are downloaded before ranks start, and the record of the run needs no hub.
    let (code, _, stderr, dir) = user.program(&server.uri, &[recipe, "--set", set]).run();
    assert_eq!(code, 0, "{stderr}");
    assert!(server.files().contains(&WEIGHTS.to_owned()));
    let run = crate::process::run_folder(dir.path());
    let run = run.to_str().unwrap();
    let elsewhere = User::new();
    let offline = [("HF_HUB_OFFLINE", "1")];
    let (code, again, stderr, _dir) = elsewhere.program("http://127.0.0.1:1", &["show", run]).env(&offline).run();
    assert_eq!(code, 0, "{stderr}");
    assert!(
        again.contains("hf://test/llava") && again.contains("intermediate_size: 160"),
        "{again}"
    );
    // Without the model no run starts.
    let (code, _, stderr, dir) = elsewhere.program("http://127.0.0.1:1", &[run]).env(&offline).run();
    assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
    assert!(stderr.contains("hf://test/llava is not in"), "{stderr}");
    assert!(!dir.path().join("nemo_experiments").exists());
}
