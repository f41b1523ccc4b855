//! Generates the messages of `proto/` with a parser written in Rust, so that
//! nobody needs `protoc` to build. The method tables are few enough to stand by
//! hand in `src/rpc.rs`.

fn main() {
    println!("cargo:rerun-if-changed=proto");
    protobuf_codegen::Codegen::new()
        .pure()
        .include("proto")
        .inputs([
            "proto/eventlog.proto",
            "proto/health.proto",
            "proto/nri.proto",
            "proto/reflection.proto",
            "proto/reflection_v1alpha.proto",
            "proto/ttrpc.proto",
        ])
        .cargo_out_dir("proto")
        .run_from_script();
}
