//! The flags as docker says them, and every way to say them wrong.

use super::*;

/// The resources that `words` ask for on a machine with two CPUs, through clap, as JSON; or the error.
fn parse(words: &str) -> Result<String, String> {
    let command = add(Command::new("run"));
    let words = ["run"].into_iter().chain(words.split(' ').filter(|word| !word.is_empty()));
    let said = command.try_get_matches_from(words).map_err(|error| format!("clap: {error}"))?;
    let value = |flag: &'static str| said.get_one::<String>(flag).map(String::as_str);
    let resources = resources(&value, said.get_flag("oom-kill-disable"), 2).map_err(|error| error.to_string())?;
    Ok(serde_json::to_string(&resources).unwrap().replace('"', ""))
}

#[test]
fn flags_become_the_documents_words() {
    let cases = [
        ("", "{}"),
        ("-m 100m", "{memory:{limit:104857600}}"),
        ("--mem 6m", "{memory:{limit:6291456}}"),
        ("--memory=1g --memory-swap -1", "{memory:{limit:1073741824,swap:-1}}"),
        ("-m 8m --memory-swap 8m", "{memory:{limit:8388608,swap:8388608}}"),
        ("-m 0 --memory-swap 0", "{}"),
        ("--memory-swap -1", "{}"),
        ("-m 8m --memory-reservation 7m", "{memory:{limit:8388608,reservation:7340032}}"),
        ("--oom-kill-disable -m 8m", "{memory:{limit:8388608,disableOOMKiller:true}}"),
        ("--cpus 1.5", "{cpu:{quota:150000,period:100000}}"),
        ("--cpus .01", "{cpu:{quota:1000,period:100000}}"),
        ("--cpus 2.000000000", "{cpu:{quota:200000,period:100000}}"),
        ("--cpu-quota 50000", "{cpu:{quota:50000}}"),
        ("--cpu-quota -1 --cpu-period 1000", "{cpu:{quota:-1,period:1000}}"),
        ("-c 512", "{cpu:{shares:512}}"),
        ("--cpushare 2", "{cpu:{shares:2}}"),
        ("-c 0 --cpu-period 0 --cpu-quota 0", "{}"),
        ("--cpuset 0-1 --cpuset-mems 0", "{cpu:{cpus:0-1,mems:0}}"),
        ("--pids-limit 20", "{pids:{limit:20}}"),
        ("--pids-limit -1", "{}"),
        ("--pids-limit 0", "{}"),
        ("--blkio-weight 10", "{blockIO:{weight:10}}"),
        ("--blkio-weight 0", "{}"),
    ];
    for (words, json) in cases {
        assert_eq!(parse(words).as_deref(), Ok(json), "{words}");
    }
}

#[test]
fn a_refusal_is_one_line_with_flag_and_value() {
    let bad = [
        "-m -5",
        "-m 1",
        "-m 3k",
        "-m 5.9m",
        "-m x",
        "-m -1",
        "-m 99999999999999999999g",
        "-m nan",
        "-m --rm",
        "--memory-swap 8m",
        "-m 8m --memory-swap 7m",
        "-m 8m --memory-swap -2",
        "--memory-reservation 1k",
        "-m 8m --memory-reservation 9m",
        "--cpus 0",
        "--cpus nan",
        "--cpus inf",
        "--cpus -1",
        "--cpus 2.01",
        "--cpus 0.009",
        "--cpus 1e0",
        "--cpus .",
        "--cpus 1.0000000001",
        "--cpus 99999999999999999999",
        "--cpus +1",
        "--cpus 1 --cpu-quota 1000",
        "--cpus 1 --cpu-period 1000",
        "--cpu-shares 1",
        "--cpu-shares 262145",
        "--cpu-shares -2",
        "--cpu-shares 1.5",
        "--cpu-period 999",
        "--cpu-period 1000001",
        "--cpu-quota 999",
        "--cpu-quota -2",
        "--cpu-quota 9223372036854775807",
        "--cpuset-cpus 7-1",
        "--cpuset-cpus -1",
        "--cpuset-cpus a",
        "--cpuset-cpus 0,",
        "--cpuset-mems 1-0",
        "--pids-limit -2",
        "--pids-limit x",
        "--pids-limit 4194305",
        "--pids-limit 9223372036854775808",
        "--blkio-weight 9",
        "--blkio-weight 1001",
        "--blkio-weight -10",
        "--blkio-weight 65546",
    ];
    for words in bad {
        let error = parse(words).unwrap_err();
        // The flag at fault is the last one, or `--cpus` where two contradict each other.
        let mut said = words.rsplit(' ');
        let (value, flag) = (said.next().unwrap(), said.next().unwrap());
        let (value, flag) =
            if words.starts_with("--cpus ") { (words.split(' ').nth(1).unwrap(), "--cpus") } else { (value, flag) };
        let flag = if flag == "-m" { "--memory" } else { flag };
        assert!(error.starts_with(&format!("{flag}: `{value}`")), "{words}: {error}");
        assert!(!error.contains('\n'), "{words}: {error}");
    }
}

#[test]
fn an_empty_value_is_a_value() {
    let refused = |words: &[&str]| {
        let said = add(Command::new("run")).try_get_matches_from(["run"].iter().chain(words)).unwrap();
        let value = |flag: &'static str| said.get_one::<String>(flag).map(String::as_str);
        resources(&value, false, 2).unwrap_err().to_string()
    };
    assert!(refused(&["-m", ""]).starts_with("--memory: `` is not a size"));
    assert!(refused(&["--cpus="]).starts_with("--cpus: ``: range"));
    assert!(refused(&["--pids-limit", ""]).starts_with("--pids-limit: `` is not"));
    assert!(refused(&["-m", "1\nm"]).starts_with("--memory: `1\\nm` is not a size"));
}

#[test]
fn dockers_own_words_where_scripts_may_look_for_them() {
    assert!(parse("-m 1").unwrap_err().contains("minimum memory limit allowed is 6MB"));
    let expected = "--cpus: `3`: range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available";
    assert_eq!(parse("--cpus 3"), Err(expected.to_string()));
}

#[test]
fn a_flag_without_value_is_refused_by_the_parser() {
    for words in ["-m", "--cpus", "--pids-limit"] {
        assert!(parse(words).unwrap_err().starts_with("clap: "), "{words}");
    }
}
