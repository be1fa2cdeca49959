//! The `#[task]` attribute of the crate `stem-guest`, which re-exports it. Use it from there.

mod expand;

/// Makes a function the task of this module.
///
/// ```text
/// #[stem_guest::task]
/// fn render(ctx: &Context, args: Args) -> Result<Out, TaskError> { … }
/// ```
///
/// The function stays as it is, so it can be called and tested natively. When compiled to WebAssembly it is also
/// exported as the module's `stem:task/handler`. A module has one task: a second attribute in the same program is an
/// error of the linker.
///
/// * `args` is any type that implements `stem_guest::Input`: every type that serde can deserialize (the payload is then
///   read as JSON), or `stem_guest::Binary` for the bytes as they came.
/// * The result's type implements `stem_guest::Output`: every type that serde can serialize, or `Binary`.
/// * The function is neither `async` nor generic.
#[proc_macro_attribute]
pub fn task(
    arguments: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    expand::task(arguments.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
