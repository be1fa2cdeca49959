//! The world `guest` of `host-abi/wit`, as Rust. Everything here is generated.

wit_bindgen::generate!({
    path: "../../host-abi/wit",
    world: "guest",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "export_guest",
    default_bindings_module: "stem_guest::__private::bindings",
});
