//! The chapters' programs, which are Cargo examples.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An example that needs the feature of its own name; `None`: it is not there, and there is no cargo to build it.
pub fn build(product: &Path, name: &str) -> Option<PathBuf> {
    cargo(product, &["--example", name, "--features", name]);
    Some(product.parent()?.join("examples").join(name)).filter(|path| path.exists())
}

/// The folder of the chapters' programs, built as the product was: `cargo test --test chapters` alone builds none.
pub fn examples(product: &Path) -> PathBuf {
    cargo(product, &["--examples"]);
    product.parent().unwrap().join("examples")
}

/// Has cargo build what the words say, as the product was built. Without cargo (a machine that got only the binaries)
/// those that are there must do.
fn cargo(product: &Path, words: &[&str]) {
    let folder = product.parent().unwrap();
    let part = |path: Option<&Path>| path.and_then(|path| path.file_name()?.to_str()).map(str::to_string);
    let Some(cargo) = std::env::var_os("CARGO") else { return };
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--locked", "--offline"]).args(words).arg("--target-dir");
    let triple = part(folder.parent()).filter(|name| name.matches('-').count() >= 2);
    match &triple {
        Some(triple) => command.arg(folder.ancestors().nth(2).unwrap()).args(["--target", triple]),
        None => command.arg(folder.parent().unwrap()),
    };
    if part(Some(folder)).as_deref() == Some("release") {
        command.arg("--release");
    }
    let built = command.current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let built = built.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(built.status.success(), "{command:?}: {}", String::from_utf8_lossy(&built.stderr));
}
