//! What `#[task]` turns a function into, on token streams that tests can build.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, FnArg, ItemFn, Result, ReturnType, Type};

const SHAPE: &str = "a task is `fn name(ctx: &Context, args: Args) -> Result<Out, TaskError>`";

pub(crate) fn task(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(
            arguments,
            "`task` takes no arguments: the name comes from stem.toml",
        ));
    }
    let function: ItemFn = syn::parse2(item)?;
    check(&function)?;
    let name = &function.sig.ident;
    Ok(quote! {
        #[allow(
            clippy::needless_pass_by_value,
            clippy::unnecessary_wraps,
            reason = "every task has this shape, whatever it does with its arguments"
        )]
        #function

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Task;
            impl ::stem_guest::__private::Guest for Task {
                fn run(
                    input: ::stem_guest::__private::Payload,
                ) -> ::core::result::Result<::stem_guest::__private::Payload, ::stem_guest::__private::Failure> {
                    ::stem_guest::__private::run(#name, input)
                }
            }
            ::stem_guest::__private::export_guest!(Task with_types_in ::stem_guest::__private::bindings);
        };
    })
}

fn check(function: &ItemFn) -> Result<()> {
    let signature = &function.sig;
    if let Some(token) = &signature.asyncness {
        return Err(Error::new_spanned(token, format!("a task cannot be async; {SHAPE}")));
    }
    if let Some(token) = &signature.unsafety {
        return Err(Error::new_spanned(token, format!("a task cannot be unsafe; {SHAPE}")));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &signature.generics,
            format!("a task cannot be generic; {SHAPE}"),
        ));
    }
    if signature.inputs.len() != 2 {
        return Err(Error::new_spanned(
            &signature.ident,
            format!("a task takes two parameters; {SHAPE}"),
        ));
    }
    for input in &signature.inputs {
        if let FnArg::Receiver(receiver) = input {
            return Err(Error::new_spanned(
                receiver,
                format!("a task is a free function; {SHAPE}"),
            ));
        }
    }
    if let FnArg::Typed(context) = &signature.inputs[0]
        && !matches!(&*context.ty, Type::Reference(reference) if reference.mutability.is_none())
    {
        return Err(Error::new_spanned(
            &context.ty,
            format!("the first parameter is `&Context`; {SHAPE}"),
        ));
    }
    if matches!(signature.output, ReturnType::Default) {
        return Err(Error::new_spanned(
            &signature.ident,
            format!("a task returns a `Result`; {SHAPE}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(item: TokenStream) -> String {
        task(TokenStream::new(), item).expect_err("refused").to_string()
    }

    #[test]
    fn the_function_stays_as_it_was_and_is_exported() {
        let function =
            quote! { fn work(ctx: &Context, args: Args) -> Result<Out, TaskError> { Ok(Out) } };
        let expanded = task(TokenStream::new(), function.clone()).unwrap().to_string();
        assert!(expanded.contains(&function.to_string()), "{expanded}");
        assert!(expanded.contains("run (work , input)"), "{expanded}");
    }

    #[test]
    fn a_function_of_another_shape_is_refused_with_the_shape() {
        for (item, reason) in [
            (quote! { async fn t(ctx: &Context, args: A) -> Result<O, E> { x() } }, "async"),
            (quote! { unsafe fn t(ctx: &Context, args: A) -> Result<O, E> { x() } }, "unsafe"),
            (quote! { fn t<T>(ctx: &Context, args: T) -> Result<O, E> { x() } }, "generic"),
            (quote! { fn t(args: A) -> Result<O, E> { x() } }, "two parameters"),
            (quote! { fn t(&self, args: A) -> Result<O, E> { x() } }, "free function"),
            (quote! { fn t(ctx: Context, args: A) -> Result<O, E> { x() } }, "`&Context`"),
            (quote! { fn t(ctx: &mut Context, args: A) -> Result<O, E> { x() } }, "`&Context`"),
            (quote! { fn t(ctx: &Context, args: A) { x() } }, "returns a `Result`"),
        ] {
            let refusal = refusal(item);
            assert!(refusal.contains(reason) && refusal.ends_with(SHAPE), "{refusal}");
        }
    }

    #[test]
    fn arguments_and_other_items_are_refused() {
        let function =
            quote! { fn work(ctx: &Context, args: Args) -> Result<Out, TaskError> { Ok(Out) } };
        assert!(task(quote! { name = "x" }, function).is_err());
        assert!(task(TokenStream::new(), quote! { struct Work; }).is_err());
    }
}
