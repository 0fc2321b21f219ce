//! Links the comparisons of models to nothing, see `src/compares.rs`.

const MODELS: [&str; 6] = [
    "codec_round_trip",
    "log_replay",
    "tree_model",
    "store_model",
    "store_files",
    "store_manifest",
];
const TRACED: [&str; 9] = [
    "cmp1",
    "cmp2",
    "cmp4",
    "cmp8",
    "const_cmp1",
    "const_cmp2",
    "const_cmp4",
    "const_cmp8",
    "switch",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for model in MODELS {
        for name in TRACED {
            println!("cargo::rustc-link-arg-bin={model}=-Wl,--wrap=__sanitizer_cov_trace_{name}");
        }
    }
}
