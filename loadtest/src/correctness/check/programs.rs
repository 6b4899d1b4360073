//! The programs under test: beside this one, built first where cargo runs us.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use super::{options::Options, platform::Programs};

/// Finds the programs, and builds them where they may be old.
pub(crate) async fn find(options: &Options) -> Result<Programs> {
    if options.mutation.is_some() && !cfg!(feature = "mutation") {
        bail!("this program knows no mutations: build it with `--features mutation`");
    }
    let server = match &options.server_program {
        Some(program) => program.clone(),
        None => built(options).await?,
    };
    if !server.exists() {
        bail!("there is no {}: build it with `cargo build -p motience-server`, or name it with --server-program", server.display());
    }
    let gateway = Some(server.with_file_name("motience-gateway")).filter(|program| options.cluster.is_some() && program.exists());
    Ok(Programs { server, gateway })
}

async fn built(options: &Options) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("a program is in a folder")?;
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(folder.join("motience-server")) };
    let release = folder.ends_with("release");
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "-p", "motience-server"]);
    if options.cluster.is_some() {
        build.args(["-p", "motience-gateway"]);
    }
    if release {
        build.arg("--release");
    }
    let mut folder = folder.to_owned();
    if options.mutation.is_some() {
        // Apart from the others: a program that breaks its promises must not be taken for one that keeps them.
        let target = folder.parent().unwrap_or(Path::new("target")).join("mutation");
        folder = target.join(if release { "release" } else { "debug" });
        build.args(["--features", "motience-server/mutation", "--target-dir"]).arg(target);
    }
    if !build.status().await.context("cargo cannot be run to build the server")?.success() {
        bail!("the server could not be built");
    }
    Ok(folder.join("motience-server"))
}
