{{/*
Names are fixed, not derived from the release's: the definitions and the external metrics API exist once in a cluster,
and so does the operator.
*/}}
{{- define "headrace.operator" -}}
headrace-operator
{{- end -}}

{{- define "headrace.metricsApi" -}}
headrace-operator-metrics-api
{{- end -}}

{{- define "headrace.selectorLabels" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "headrace.labels" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: headrace
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* An image reference from {image: …, root: …}. */}}
{{- define "headrace.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "headrace.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "headrace.podSecurity" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
What the operator does in the namespaces that it works in. Secrets are read and written by name, never listed or
watched; the bindings it made go with their JobQueue.
*/}}
{{- define "headrace.workRules" -}}
- apiGroups: [headrace.dev]
  resources: [jobqueues, jobworkerpools]
  verbs: [get, list, watch]
# A JobQueue's finalizer, where deletionPolicy is Delete.
- apiGroups: [headrace.dev]
  resources: [jobqueues]
  verbs: [patch]
- apiGroups: [headrace.dev]
  resources: [jobqueues/status, jobworkerpools/status]
  verbs: [patch]
# A pool's number, and beside it the mark of whose zero it is: /scale takes no annotation.
- apiGroups: [headrace.dev]
  resources: [jobworkerpools]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
# A Deployment goes with its pool, by itself.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
