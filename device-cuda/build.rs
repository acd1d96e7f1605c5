//! Lets programs link on machines without a CUDA installation.
//!
//! cust asks the linker for `libcuda`, though this crate uses only its types and finds the driver's
//! functions at run time. An archive without members satisfies the linker and adds nothing.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(folder.join("libcuda.a"), b"!<arch>\n").expect("OUT_DIR can be written");
    println!("cargo:rustc-link-search=native={}", folder.display());
}
