//! The fields of the objects that users write, with their types and, for protocol buffers, their numbers.
//!
//! They are those of k8s.io/api and k8s.io/apimachinery (generated.proto) of Kubernetes 1.36. A field without a type has any content: the
//! simulator does not use it.

use serde_json::Value;

use crate::kube::quantity;

/// One type a line: its name, and its fields as NAME:TYPE=NUMBER.
///
/// `[]TYPE` is a list, `strings` and `quantities` are maps, `bytes` is a map of base64 texts. `status` is written by controllers only.
const TYPES: &str = "\
Job metadata:ObjectMeta=1 spec:JobSpec=2 status:status=3
JobSpec parallelism:int32=1 completions:int32=2 activeDeadlineSeconds:int64=3 podFailurePolicy=11 successPolicy=16 backoffLimit:int32=7 \
backoffLimitPerIndex:int32=12 maxFailedIndexes:int32=13 selector:LabelSelector=4 manualSelector:bool=5 template:PodTemplateSpec=6 \
ttlSecondsAfterFinished:int32=8 completionMode:string=9 suspend:bool=10 podReplacementPolicy:string=14 managedBy:string=15 scheduling=17
LabelSelector matchLabels:strings=1 matchExpressions=2
PodTemplateSpec metadata:ObjectMeta=1 spec:PodSpec=2
Pod metadata:ObjectMeta=1 spec:PodSpec=2 status:status=3
PodSpec volumes=1 initContainers:[]Container=20 containers:[]Container=2 ephemeralContainers=34 restartPolicy:string=3 \
terminationGracePeriodSeconds:int64=4 activeDeadlineSeconds:int64=5 dnsPolicy:string=6 nodeSelector:strings=7 \
serviceAccountName:string=8 serviceAccount:string=9 automountServiceAccountToken:bool=21 nodeName:string=10 hostNetwork:bool=11 \
hostPID:bool=12 hostIPC:bool=13 shareProcessNamespace:bool=27 securityContext=14 imagePullSecrets=15 hostname:string=16 \
subdomain:string=17 affinity=18 schedulerName:string=19 tolerations=22 hostAliases=23 priorityClassName:string=24 priority:int32=25 \
dnsConfig=26 readinessGates=28 runtimeClassName:string=29 enableServiceLinks:bool=30 preemptionPolicy:string=31 overhead:quantities=32 \
topologySpreadConstraints=33 setHostnameAsFQDN:bool=35 os=36 hostUsers:bool=37 schedulingGates=38 resourceClaims=39 \
resources:ResourceRequirements=40 hostnameOverride:string=41 schedulingGroup=43 evictionResponders=44
Container name:string=1 image:string=2 command:[]string=3 args:[]string=4 workingDir:string=5 ports=6 envFrom=19 env:[]EnvVar=7 \
resources:ResourceRequirements=8 resizePolicy=23 restartPolicy:string=24 restartPolicyRules=25 volumeMounts=9 volumeDevices=21 \
livenessProbe=10 readinessProbe=11 startupProbe=22 lifecycle=12 terminationMessagePath:string=13 terminationMessagePolicy:string=20 \
imagePullPolicy:string=14 securityContext=15 stdin:bool=16 stdinOnce:bool=17 tty:bool=18
EnvVar name:string=1 value:string=2 valueFrom=3
ResourceRequirements limits:quantities=1 requests:quantities=2 claims=3
ResourceQuota metadata:ObjectMeta=1 spec:ResourceQuotaSpec=2 status:status=3
ResourceQuotaSpec hard:quantities=1 scopes:[]string=2 scopeSelector=3
Namespace metadata:ObjectMeta=1 spec:NamespaceSpec=2 status:status=3
NamespaceSpec finalizers:[]string=1
ServiceAccount metadata:ObjectMeta=1 secrets=2 imagePullSecrets=3 automountServiceAccountToken:bool=4
ConfigMap metadata:ObjectMeta=1 immutable:bool=4 data:strings=2 binaryData:bytes=3
Secret metadata:ObjectMeta=1 immutable:bool=5 data:bytes=2 stringData:strings=4 type:string=3
Role metadata:ObjectMeta=1 rules:[]PolicyRule=2
ClusterRole metadata:ObjectMeta=1 rules:[]PolicyRule=2 aggregationRule=3
PolicyRule verbs:[]string=1 apiGroups:[]string=2 resources:[]string=3 resourceNames:[]string=4 nonResourceURLs:[]string=5
RoleBinding metadata:ObjectMeta=1 subjects:[]Subject=2 roleRef:RoleRef=3
ClusterRoleBinding metadata:ObjectMeta=1 subjects:[]Subject=2 roleRef:RoleRef=3
Subject kind:string=1 apiGroup:string=2 name:string=3 namespace:string=4
RoleRef apiGroup:string=1 kind:string=2 name:string=3
SelfSubjectAccessReview metadata:ObjectMeta=1 spec:SelfSubjectAccessReviewSpec=2 status:status=3
SelfSubjectAccessReviewSpec resourceAttributes:ResourceAttributes=1 nonResourceAttributes=2
ResourceAttributes namespace:string=1 verb:string=2 group:string=3 version:string=4 resource:string=5 subresource:string=6 name:string=7 \
fieldSelector=8 labelSelector=9
SelfSubjectRulesReview metadata:ObjectMeta=1 spec:SelfSubjectRulesReviewSpec=2 status:status=3
SelfSubjectRulesReviewSpec namespace:string=1
SelfSubjectReview metadata:ObjectMeta=1 status:status=2
TokenRequest metadata:ObjectMeta=1 spec:TokenRequestSpec=2 status:status=3
TokenRequestSpec audiences:[]string=1 expirationSeconds:int64=4 boundObjectRef=3 attestations=5
ObjectMeta name:string=1 generateName:string=2 namespace:string=3 selfLink:string=4 uid:string=5 resourceVersion:string=6 \
generation:int64=7 creationTimestamp=8 deletionTimestamp=9 deletionGracePeriodSeconds:int64=10 labels:strings=11 annotations:strings=12 \
ownerReferences:[]OwnerReference=13 finalizers:[]string=14 managedFields=17
OwnerReference apiVersion:string=5 kind:string=1 name:string=3 uid:string=4 controller:bool=6 blockOwnerDeletion:bool=7
";

/// A field of a type.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    /// Empty for any content.
    pub ty: &'static str,
    pub number: u64,
}

/// Returns the fields of a type, or `None` for a type that is not in the table.
pub fn fields(ty: &str) -> Option<impl Iterator<Item = Field> + use<>> {
    let line = TYPES.lines().find_map(|line| line.strip_prefix(ty)?.strip_prefix(' '))?;
    Some(line.split(' ').map(|field| {
        let (name, number) = field.split_once('=').expect("each field has a number");
        let (name, ty) = name.split_once(':').unwrap_or((name, ""));
        Field { name, ty, number: number.parse().expect("the numbers are decimal") }
    }))
}

/// Checks an object of this kind as Kubernetes decodes it, and removes its unknown fields. Returns their paths.
///
/// # Errors
/// Kubernetes' words for the first value of a wrong type.
pub fn check(kind: &'static str, object: &mut Value) -> Result<Vec<String>, String> {
    let mut unknown = Vec::new();
    // The name of a kind is that of its type.
    if fields(kind).is_some() {
        check_type(object, kind, &Place { owner: "", path: String::new(), names: String::new() }, &mut unknown)?;
    } else if let Some(metadata) = object.get_mut("metadata") {
        let place = Place { owner: kind, path: "metadata".into(), names: "metadata".into() };
        check_type(metadata, "ObjectMeta", &place, &mut unknown)?;
    }
    Ok(unknown)
}

/// A value's place in the object.
struct Place<'a> {
    /// The type that has the field.
    owner: &'a str,
    /// With indices, such as `spec.containers[0]`.
    path: String,
    /// Without indices, as Go's decoder writes it.
    names: String,
}

impl Place<'_> {
    fn mistyped(&self, value: &Value, ty: &str) -> String {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let field = if self.owner.is_empty() { String::new() } else { format!("struct field {}.", self.owner) };
        let names = if self.owner.is_empty() { "value" } else { &self.names };
        format!("json: cannot unmarshal {found} into Go {field}{names} of type {}", go_type(ty))
    }
}

/// Returns the name of a type in Go.
fn go_type(ty: &str) -> String {
    match ty {
        "string" | "int32" | "int64" | "bool" | "[]string" => ty.to_owned(),
        "strings" => "map[string]string".to_owned(),
        "bytes" => "map[string][]uint8".to_owned(),
        "quantities" => "v1.ResourceList".to_owned(),
        _ => match ty.strip_prefix("[]") {
            Some(item) => format!("[]v1.{item}"),
            None => format!("v1.{ty}"),
        },
    }
}

fn check_type(value: &mut Value, ty: &'static str, place: &Place<'_>, unknown: &mut Vec<String>) -> Result<(), String> {
    let is_good = match ty {
        _ if value.is_null() => true,
        "" | "status" => true,
        "string" => value.is_string(),
        "bool" => value.is_boolean(),
        "int32" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        "int64" => value.is_i64(),
        "strings" | "bytes" | "quantities" => return check_map(value, ty, place),
        _ => return check_parts(value, ty, place, unknown),
    };
    if is_good { Ok(()) } else { Err(place.mistyped(value, ty)) }
}

fn check_map(value: &Value, ty: &str, place: &Place<'_>) -> Result<(), String> {
    let map = value.as_object().ok_or_else(|| place.mistyped(value, ty))?;
    let mut values = map.values().filter(|value| !value.is_null());
    if ty == "quantities" {
        return values.try_for_each(check_quantity);
    }
    match values.find(|value| !value.is_string()) {
        Some(value) => Err(place.mistyped(value, "string")),
        None => Ok(()),
    }
}

/// Checks a quantity by the rules of k8s.io/apimachinery/pkg/api/resource (quantity.go). A number counts as its text.
fn check_quantity(value: &Value) -> Result<(), String> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if quantity::parse(&text).is_some() {
        return Ok(());
    }
    let rest = text.trim_start_matches(['+', '-']).trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let suffix = rest.trim_start_matches(|c| "eEinumkKMGTP".contains(c)).trim_start_matches(['+', '-']);
    let is_like = rest.len() < text.len() && suffix.bytes().all(|byte| byte.is_ascii_digit());
    Err(match is_like {
        true => "unable to parse quantity's suffix".to_owned(),
        false => {
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".to_owned()
        }
    })
}

/// Checks the items of a list, or the fields of a structure.
fn check_parts(
    value: &mut Value,
    ty: &'static str,
    place: &Place<'_>,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    if let Some(item_type) = ty.strip_prefix("[]") {
        let Value::Array(items) = value else { return Err(place.mistyped(value, ty)) };
        for (index, item) in items.iter_mut().enumerate() {
            let path = format!("{}[{index}]", place.path);
            check_type(item, item_type, &Place { path, names: place.names.clone(), ..*place }, unknown)?;
        }
        return Ok(());
    }
    let Value::Object(map) = value else { return Err(place.mistyped(value, ty)) };
    let known: Vec<Field> = fields(ty).into_iter().flatten().collect();
    let is_root = place.path.is_empty();
    let join = |start: &str, name: &str| if is_root { name.to_owned() } else { format!("{start}.{name}") };
    // $patch and its like are directives of a strategic merge patch.
    let is_known = |name: &str| {
        known.iter().any(|field| field.name == name)
            || name.starts_with('$')
            || is_root && ["kind", "apiVersion"].contains(&name)
    };
    unknown.extend(map.keys().filter(|name| !is_known(name)).map(|name| join(&place.path, name)));
    map.retain(|name, _| is_known(name));
    for Field { name, ty: field_type, .. } in known {
        if let Some(value) = map.get_mut(name) {
            let (path, names) = (join(&place.path, name), join(&place.names, name));
            check_type(value, field_type, &Place { owner: ty, path, names }, unknown)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(spec: &Value) -> Result<Vec<String>, String> {
        check("Job", &mut json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": spec}))
    }

    #[test]
    fn every_type_of_the_table_is_in_it() {
        const LEAVES: [&str; 9] = ["", "string", "bool", "int32", "int64", "strings", "bytes", "quantities", "status"];
        for line in TYPES.lines() {
            let ty = line.split(' ').next().expect("a name");
            let mut numbers = Vec::new();
            for field in fields(ty).expect("the line") {
                let inner = field.ty.trim_start_matches("[]");
                assert!(LEAVES.contains(&inner) || fields(inner).is_some(), "{ty}.{}: {inner}", field.name);
                numbers.push(field.number);
            }
            numbers.sort_unstable();
            assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "{ty}: {numbers:?}");
        }
    }

    #[test]
    fn unknown_fields_are_removed_and_named() {
        let container = json!({"name": "c", "imagee": "x", "env": [{"name": "A"}, {"name": "B", "valu": "1"}]});
        let mut job =
            json!({"kind": "Job", "spec": {"foo": 1, "template": {"spec": {"containers": [container]}}}, "bar": {}});
        let unknown = check("Job", &mut job);
        let containers = "spec.template.spec.containers[0]";
        let expected = ["bar", "spec.foo", &format!("{containers}.imagee"), &format!("{containers}.env[1].valu")];
        assert_eq!(unknown, Ok(expected.map(str::to_owned).to_vec()));
        assert_eq!(check("Job", &mut job), Ok(Vec::new()));
    }

    #[test]
    fn a_wrong_type_has_the_words_of_go() {
        let container = |fields: Value| json!({"template": {"spec": {"containers": [fields]}}});
        let field = "json: cannot unmarshal";
        for (spec, words) in [
            (
                json!({"backoffLimit": "4"}),
                format!("{field} string into Go struct field JobSpec.spec.backoffLimit of type int32"),
            ),
            (
                json!({"backoffLimit": 3_000_000_000_u64}),
                format!("{field} number into Go struct field JobSpec.spec.backoffLimit of type int32"),
            ),
            (json!([]), format!("{field} array into Go struct field Job.spec of type v1.JobSpec")),
            (
                container(json!({"env": [{"name": "A", "value": 1}]})),
                format!(
                    "{field} number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string"
                ),
            ),
            (
                container(json!({"resources": {"requests": {"cpu": "0.9 CPU"}}})),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                    .to_owned(),
            ),
            (
                container(json!({"resources": {"limits": {"memory": "1K"}}})),
                "unable to parse quantity's suffix".to_owned(),
            ),
        ] {
            assert_eq!(checked(&spec), Err(words));
        }
        assert_eq!(checked(&container(json!({"resources": {"limits": {"cpu": 2, "memory": null}}}))), Ok(Vec::new()));
    }
}
