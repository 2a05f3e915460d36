//! Authentication, tokens of service accounts, and reviews of identities and permissions.

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::rbac::{self, Attributes, User};
use super::request::Request;
use super::resources::{ACCOUNTS, Target};
use super::response::Response;
use super::status::ApiStatus;
use super::store::{Store, items, merge, text};

/// Returns the user of a request: the owner of its token, or the user that an administrator impersonates.
///
/// # Errors
/// 401 or 403
pub fn authenticate(cluster: &Cluster, request: &Request) -> Result<User, ApiStatus> {
    let token = request.header("Authorization").strip_prefix("Bearer ").unwrap_or_default();
    let user = cluster.user(token).ok_or_else(|| ApiStatus::new(401, "Unauthorized", "Unauthorized"))?;
    let impersonated = request.header("Impersonate-User");
    if impersonated.is_empty() {
        return Ok(user);
    }
    if !user.is_admin() {
        let attributes =
            Attributes { verb: "impersonate", group: "", resource: "users", namespace: "", name: impersonated };
        return Err(ApiStatus::forbidden("users", impersonated, &rbac::denial(&user, &attributes)));
    }
    let groups = request.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case("Impersonate-Group"));
    Ok(User::new(impersonated, &groups.map(|(_, value)| value.clone()).collect::<Vec<_>>()))
}

/// Answers a TokenRequest for a service account.
///
/// # Errors
/// 404
pub fn create_token(cluster: &Cluster, store: &Store, target: &Target<'_>) -> Result<Response, ApiStatus> {
    let Target { namespace, name, .. } = *target;
    store.get(&ACCOUNTS, namespace, name).ok_or_else(|| ApiStatus::not_found(&ACCOUNTS, name))?;
    let token = cluster.issue_token(&format!("system:serviceaccount:{namespace}:{name}"));
    let answer = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {},
                        "status": {"token": token}});
    Ok(Response::json(201, &answer))
}

/// Answers a SelfSubjectReview, SelfSubjectAccessReview, SelfSubjectRulesReview or SubjectAccessReview, or returns `None` for another `kind`.
///
/// # Errors
/// 400 or 415
pub fn review(store: &Store, request: &Request, user: &User, plural: &str) -> Result<Option<Response>, ApiStatus> {
    let mut review = request.json()?;
    let spec = review["spec"].clone();
    let subject = match plural {
        "selfsubjectreviews" => {
            merge(&mut review, json!({"status": {"userInfo": {"username": user.name, "groups": user.groups}}}));
            return Ok(Some(Response::json(201, &review)));
        }
        "selfsubjectrulesreviews" => {
            let rules = rbac::rules(store, user, text(&spec, "/namespace"));
            let status = json!({"resourceRules": rules, "nonResourceRules": [], "incomplete": false});
            merge(&mut review, json!({ "status": status }));
            return Ok(Some(Response::json(201, &review)));
        }
        "selfsubjectaccessreviews" => user.clone(),
        "subjectaccessreviews" => {
            let groups = items(&spec["groups"]).iter().filter_map(Value::as_str).map(str::to_owned);
            User::new(text(&spec, "/user"), &groups.collect::<Vec<_>>())
        }
        _ => return Ok(None),
    };
    let field = |name: &str| text(&spec, &format!("/resourceAttributes/{name}"));
    let resource = match field("subresource") {
        "" => field("resource").to_owned(),
        subresource => format!("{}/{subresource}", field("resource")),
    };
    let (verb, group, namespace, name) = (field("verb"), field("group"), field("namespace"), field("name"));
    let allowed = rbac::allows(store, &subject, &Attributes { verb, group, resource: &resource, namespace, name });
    merge(&mut review, json!({"status": {"allowed": allowed}}));
    Ok(Some(Response::json(201, &review)))
}
