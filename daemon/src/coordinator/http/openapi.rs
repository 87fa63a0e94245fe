//! The API's description, generated from the handlers and types; what each route needs is taken from the
//! table of routes.

use super::routes::{self, Route};
use super::{
    access, checkpoints, jobs, launcher, metrics, scores, session, streams, upkeep, workers,
};
use axum::Json;
use axum::http::Method;
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};

/// The name of the one way to prove oneself, in the description.
const TOKEN: &str = "token";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "ptv2",
        description = "P-tuning v2 on many workers. Every request but /healthz \
        needs `Authorization: Bearer TOKEN`. Scopes: admin holds submit, and submit holds read; worker is apart."
    ),
    paths(
        super::healthz,
        jobs::submit,
        jobs::plan,
        scores::submit,
        jobs::list,
        jobs::status,
        jobs::record,
        jobs::cancel,
        jobs::retry,
        jobs::metrics,
        streams::events,
        streams::follow_events,
        streams::logs,
        streams::follow_logs,
        checkpoints::list,
        checkpoints::files,
        checkpoints::data,
        upkeep::gc,
        upkeep::recover,
        workers::list,
        workers::drain,
        launcher::status,
        access::create,
        access::list,
        access::revoke,
        access::audit,
        session::open,
        metrics::scrape,
        document,
    )
)]
struct Document;

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, content_type = "application/json")))]
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(describe())
}

fn describe() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().add_security_scheme(TOKEN, scheme);
    for Route { method, path, scope, .. } in routes::table() {
        let operation = document.paths.paths.get_mut(path).and_then(|item| of(item, &method));
        if let (Some(operation), Some(scope)) = (operation, scope) {
            operation.security = Some(vec![SecurityRequirement::new(TOKEN, [scope.word()])]);
        }
    }
    document
}

/// The operation of a method.
fn of<'a>(item: &'a mut PathItem, method: &Method) -> Option<&'a mut Operation> {
    let all = [
        (Method::GET, &mut item.get),
        (Method::POST, &mut item.post),
        (Method::PUT, &mut item.put),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ];
    all.into_iter().find(|(of, _)| of == method).and_then(|(_, operation)| operation.as_mut())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What can be done is described, what is described can be done, and each says what it needs.
    #[test]
    fn the_description_is_of_the_table_of_routes() {
        let described = serde_json::to_value(describe()).unwrap();
        let mut found = BTreeSet::new();
        for (path, item) in described["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let needed = operation["security"][0][TOKEN][0].as_str().unwrap_or("none");
                found.insert((path.clone(), method.to_uppercase(), needed.to_owned()));
            }
        }
        let of = |route: Route| {
            let needed = route.scope.map_or("none", ptv2_common::access::Scope::word);
            (route.path.to_owned(), route.method.to_string(), needed.to_owned())
        };
        let table: BTreeSet<_> = routes::table().into_iter().map(of).collect();
        assert_eq!(found, table);
        let open: Vec<_> = table.iter().filter(|(_, _, needed)| needed == "none").collect();
        assert!(matches!(open[..], [(path, ..)] if path == "/healthz"), "{open:?}");
        assert_eq!(described["components"]["securitySchemes"][TOKEN]["scheme"], "bearer");
    }
}
