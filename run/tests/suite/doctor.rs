//! `neva-run doctor --executor`: clusters whose programs print what real ones print.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use crate::process::Program;

/// What the programs of a cluster print. An empty text stands for a program that is not installed.
struct Cluster {
    sbatch: &'static str,
    config: &'static str,
    partitions: &'static str,
    sinfo: &'static str,
    sacct: &'static str,
    sacctmgr: &'static str,
    /// Lines of `srun`; `run` starts its command here, and `elsewhere` does where the login node's files are not seen.
    srun: &'static str,
}

const GPUS: Cluster = Cluster {
    sbatch: "slurm 23.11.4",
    config: "Configuration data as of 2026-11-24T10:00:00\nAccountingStorageEnforce = associations,limits\n\
             AccountingStorageType   = accounting_storage/slurmdbd\nClusterName             = alpha\nJobRequeue              = 0\n\
             MaxArraySize            = 100001\nSelectTypeParameters    = CR_CORE_MEMORY",
    partitions: "PartitionName=batch AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=YES MaxTime=2-00:00:00 State=UP TotalNodes=20\n\
                 PartitionName=gpu AllowGroups=ALL AllowAccounts=vision,ai Default=NO MaxTime=12:00:00 State=UP TotalNodes=6\n\
                 PartitionName=old AllowAccounts=ALL Default=NO MaxTime=UNLIMITED State=DOWN TotalNodes=1",
    sinfo: "batch|20|64|256000+|(null)|mixed\ngpu|4|128|1030000|gpu:a100:8(S:0-1),nvme:1|idle\ngpu|2|96|515000|gpu:h100:4|down*\n\
            old|1|8|16000|gpu:1|idle",
    sacct: "12",
    sacctmgr: "vision\nvision\nlanguage",
    srun: "run",
};

const BARE: Cluster = Cluster {
    sbatch: "slurm-wlm 22.05.8",
    config: "AccountingStorageType   = (null)\nClusterName             = beta\nJobRequeue              = 1",
    partitions: "PartitionName=debug AllowAccounts=ALL Default=YES MaxTime=UNLIMITED State=UP",
    sinfo: "debug|2|4|4000|(null)|idle",
    sacct: "",
    sacctmgr: "",
    srun: "run",
};

/// Writes the programs of a cluster, and returns the PATH with them.
fn install(cluster: &Cluster, dir: &Path) -> String {
    let bin = dir.join("bin");
    fs::create_dir(&bin).unwrap();
    let write = |name: &str, text: &str| {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let print = |text: &str| format!("cat <<'END'\n{text}\nEND");
    let scontrol = format!(
        "case \"$*\" in *partition*) {}\n;; *) {}\n;; esac",
        print(cluster.partitions),
        print(cluster.config)
    );
    let srun = format!(
        "echo \"$@\" >>{}/srun.log\nwhile [ \"$1\" != sh ]; do shift; done\nrun() {{ exec \"$@\"; }}\n\
         elsewhere() {{ s=$3; p=$6; set -- sh -c \"$s\" doctor /none \"$p\"; exec \"$@\"; }}\ncase {} in\nrun) run \"$@\" ;;\n\
         elsewhere) elsewhere \"$@\" ;;\n*) echo '{}' >&2; exit 1 ;;\nesac",
        dir.display(),
        if ["run", "elsewhere"].contains(&cluster.srun) {
            cluster.srun
        } else {
            "fail"
        },
        cluster.srun,
    );
    for (name, text, script) in [
        ("sbatch", cluster.sbatch, print(cluster.sbatch)),
        ("scontrol", cluster.config, scontrol),
        ("sinfo", cluster.sinfo, print(cluster.sinfo)),
        ("sacct", cluster.sacct, print(cluster.sacct)),
        ("sacctmgr", cluster.sacctmgr, print(cluster.sacctmgr)),
        ("srun", cluster.srun, srun),
    ] {
        if !text.is_empty() {
            write(name, &script);
        }
    }
    // This machine may have a Slurm of its own.
    for tool in ["sh", "id", "hostname", "cat", "rm", "sed", "sleep"] {
        let path = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
        std::os::unix::fs::symlink(path.iter().find(|path| path.exists()).unwrap(), bin.join(tool)).unwrap();
    }
    bin.display().to_string()
}

/// Runs doctor on a cluster, and returns its exit code and its lines from `sbatch` on.
fn doctor(cluster: &Cluster, arguments: &[&str], behaviour: &str) -> (i32, String, String, tempfile::TempDir) {
    let mut all = vec!["doctor", "--executor", "slurm"];
    all.extend(arguments);
    let program = Program::new(behaviour, &all);
    let path = install(cluster, program.dir.path());
    let (code, stdout, stderr, dir) = program.env(&[("PATH", &path)]).run();
    let here = dir.path().canonicalize().unwrap();
    let stdout = stdout.replace(here.to_str().unwrap(), "HERE");
    let after_login = stdout.split_once('\n').map_or("", |(login, rest)| {
        assert!(login.starts_with("ok      login "), "{stdout}");
        rest
    });
    let rank = crate::fake_rank().display().to_string();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    (code, after_login.replace(&rank, "RANK").replace(host.trim(), "HOST"), stderr, dir)
}

#[test]
fn clusters_that_have_everything() {
    let (code, stdout, stderr, dir) = doctor(
        &GPUS,
        &[
            "--set",
            "executor.partition=gpu",
            "--set",
            "executor.account=vision",
            "--set",
            "executor.gpus_per_node=8",
            "--write",
            "site.yaml",
        ],
        "",
    );
    assert_eq!(code, 0, "{stdout}{stderr}");
    insta::assert_snapshot!(stdout);
    let srun = fs::read_to_string(dir.path().join("srun.log")).unwrap();
    let options =
        "--nodes=1 --ntasks=1 --time=2 --job-name=neva-run-doctor --immediate=120 --partition=gpu --account=vision --gres=gpu:1 sh";
    assert!(srun.starts_with(options), "{srun}");
    insta::assert_snapshot!(fs::read_to_string(dir.path().join("site.yaml")).unwrap());
    let site = dir.path().join("site.yaml");
    let (code, _, stderr, _dir) = Program::new("", &["validate", site.to_str().unwrap()]).run();
    assert_eq!(code, 0, "{stderr}");

    let (code, stdout, stderr, _dir) = doctor(&BARE, &[], "");
    assert_eq!(code, 0, "{stdout}{stderr}");
    insta::assert_snapshot!(stdout);
    // A draft replaces no file.
    let program = Program::new("", &["doctor", "--executor", "slurm", "--write", "mine.yaml"]);
    let path = install(&BARE, program.dir.path());
    fs::write(program.dir.path().join("mine.yaml"), "mine").unwrap();
    let (code, _, stderr, dir) = program.env(&[("PATH", &path)]).run();
    assert_eq!(code, 2, "{stderr}");
    assert_eq!(fs::read_to_string(dir.path().join("mine.yaml")).unwrap(), "mine");
}

#[test]
fn a_problem_is_named_with_what_to_do() {
    let set = |text: &'static str| vec!["--set", text];
    let cases: Vec<(Cluster, Vec<&str>, &str, &str)> = vec![
        (
            Cluster { sbatch: "", ..BARE },
            vec![],
            "",
            "MISSING sbatch     sbatch: it is not in PATH\n                   run this on a login node",
        ),
        (
            Cluster {
                sbatch: "slurm 17.02.11",
                ..BARE
            },
            vec![],
            "",
            "set `slurm_version: \"17.02.11\"`",
        ),
        (
            BARE,
            set("executor.partition=nope"),
            "",
            "there is no partition nope\n                   set `partition` to one of debug",
        ),
        (
            Cluster {
                partitions: "PartitionName=a Default=NO State=UP\nPartitionName=b Default=NO State=UP",
                ..BARE
            },
            vec![],
            "",
            "one of a, b",
        ),
        (
            GPUS,
            vec!["--set", "executor.partition=gpu", "--set", "executor.account=language"],
            "",
            "gpu is not open to the account language\n                   set `account` to one of vision, ai",
        ),
        (
            GPUS,
            set("executor.account=other"),
            "",
            "the account other is not yours\n                   set `account` to one of language, vision",
        ),
        (
            GPUS,
            set("executor.time=3-00:00:00"),
            "",
            "`time` is 3-00:00:00, and batch allows 2-00:00:00",
        ),
        (GPUS, set("executor.partition=old"), "", "old is down"),
        (
            GPUS,
            set("executor.gpus_per_node=2"),
            "",
            "`gpus_per_node` is 2, and a node of batch has 0\n                   partitions with GPUs: gpu, old",
        ),
        (
            Cluster {
                sinfo: "debug|2|4|4000|(null)|drained",
                ..BARE
            },
            vec![],
            "",
            "no node of debug is in service",
        ),
        (
            Cluster { sacct: "", ..GPUS },
            vec![],
            "",
            "sacct fails, though the cluster has accounting",
        ),
        (
            Cluster { srun: "elsewhere", ..BARE },
            vec![],
            "",
            "HERE is not shared: HOST does not see what was written there",
        ),
        (
            Cluster {
                srun: "srun: error: Unable to allocate resources: Requested nodes are busy",
                ..BARE
            },
            vec![],
            "",
            "no job ran on a node: srun: error: Unable to allocate resources: Requested nodes are busy",
        ),
        (
            BARE,
            vec![],
            "no-libtorch",
            "RANK does not start on HOST: neva-rank: error while loading shared libraries: libtorch_cpu.so",
        ),
        (
            BARE,
            set("executor.rank_program=/no/such/neva-rank"),
            "",
            "/no/such/neva-rank is not on HOST",
        ),
    ];
    for (cluster, arguments, behaviour, expect) in cases {
        let (code, stdout, stderr, _dir) = doctor(&cluster, &arguments, behaviour);
        assert_eq!(code, 3, "{expect}: {stdout}{stderr}");
        assert!(stdout.contains(expect), "{expect}\n{stdout}{stderr}");
        assert!(stdout.contains("MISSING"), "{stdout}");
        assert!(stderr.contains("1 of these checks failed"), "{stdout}{stderr}");
    }
}
