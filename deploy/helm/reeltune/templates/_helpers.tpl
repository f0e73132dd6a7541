{{- define "reeltune.labels" -}}
app.kubernetes.io/name: reeltune
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "reeltune.selector" -}}
app.kubernetes.io/name: reeltune
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "reeltune.image" -}}
{{ .root.Values.image.registry }}reeltune-{{ .image }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "reeltune.name" -}}
{{ printf "%s-%s" .root.Release.Name .component | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "reeltune.secret" -}}
{{ printf "%s-%s" .root.Values.secretPrefix .name }}
{{- end }}

{{- define "reeltune.port" -}}
{{ get (dict "auth" "50051" "catalog" "50052" "scheduler" "50053" "trainer" "50054" "edge" "8443") . }}
{{- end }}

{{- define "reeltune.target" -}}
{{ include "reeltune.name" . }}:{{ include "reeltune.port" .component }}
{{- end }}

{{- define "reeltune.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "reeltune.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "reeltune.spread" -}}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "reeltune.selector" . | nindent 12 }}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "reeltune.selector" . | nindent 6 }}
{{- end }}

{{/* The object store as clients reach it. */}}
{{- define "reeltune.s3PublicUrl" -}}
{{ .Values.s3.publicUrl | default (printf "%s/s3" (trimSuffix "/" .Values.publicUrl)) }}
{{- end }}

{{/* Settings that every service has; what is secret comes from files. */}}
{{- define "reeltune.commonEnv" -}}
{{- $prefix := upper .component -}}
REELTUNE_SETTINGS_DIR: /run/reeltune/settings
{{ $prefix }}_HOST: 0.0.0.0
{{ $prefix }}_PORT: {{ include "reeltune.port" .component | quote }}
{{ $prefix }}_METRICS_PORT: "9090"
{{ $prefix }}_HEALTH_PORT: "8081"
{{ $prefix }}_LOG_LEVEL: {{ .root.Values.log.level }}
{{ $prefix }}_TLS_CERTIFICATE: /run/reeltune/tls/tls.crt
{{ $prefix }}_TLS_KEY: /run/reeltune/tls/tls.key
{{ $prefix }}_TLS_CLIENT_CA: /run/reeltune/tls/ca.crt
{{ $prefix }}_PEER_TLS_CA: /run/reeltune/tls/ca.crt
{{- end }}

{{- define "reeltune.s3Env" -}}
{{- $prefix := upper .component -}}
{{ $prefix }}_S3_ENDPOINT: {{ .root.Values.s3.endpoint }}
{{ $prefix }}_S3_PUBLIC_URL: {{ include "reeltune.s3PublicUrl" .root }}
{{ $prefix }}_S3_BUCKET: {{ get .root.Values.s3.buckets .component }}
{{- end }}

{{/* All variables of a service by name; its own `settings` come last and win. */}}
{{- define "reeltune.env" -}}
{{- $target := dict "root" .root -}}
{{- $env := include "reeltune.commonEnv" . | fromYaml -}}
{{- if eq .component "auth" }}
{{- $_ := set $env "AUTH_KEYS_DIR" "/run/reeltune/keys" }}
{{- $_ := set $env "AUTH_TRUSTED_PROXIES" (.root.Values.auth.trustedProxies | toJson) }}
{{- $_ := set $env "AUTH_MAX_CONNECTION_AGE_SECONDS" "300" }}
{{- else if eq .component "catalog" }}
{{- $env = merge $env (include "reeltune.s3Env" . | fromYaml) }}
{{- $_ := set $env "CATALOG_AUTH_TARGET" (include "reeltune.target" (set $target "component" "auth")) }}
{{- $_ := set $env "CATALOG_SCHEDULER_TARGET" (include "reeltune.target" (set $target "component" "scheduler")) }}
{{- $_ := set $env "CATALOG_SPOOL_DIR" "/data" }}
{{- $_ := set $env "CATALOG_MAX_CONNECTION_AGE_SECONDS" "300" }}
{{- if eq .root.Values.catalog.image "trainer" }}
{{- $_ := set $env "CATALOG_MODEL_TOOL_COMMAND" "python -m trainer_svc.qlora.model_tool" }}
{{- end }}
{{- else if eq .component "scheduler" }}
{{- $env = merge $env (include "reeltune.s3Env" . | fromYaml) }}
{{- $_ := set $env "SCHEDULER_KEYS_DIR" "/run/reeltune/keys" }}
{{- $_ := set $env "SCHEDULER_AUTH_TARGET" (include "reeltune.target" (set $target "component" "auth")) }}
{{- $_ := set $env "SCHEDULER_CATALOG_TARGET" (include "reeltune.target" (set $target "component" "catalog")) }}
{{- $_ := set $env "SCHEDULER_NATS_URL" .root.Values.nats.url }}
{{- $_ := set $env "SCHEDULER_MAX_CONNECTION_AGE_SECONDS" "300" }}
{{- else if eq .component "trainer" }}
{{- $_ := set $env "TRAINER_AUTH_TARGET" (include "reeltune.target" (set $target "component" "auth")) }}
{{- $_ := set $env "TRAINER_CATALOG_TARGET" (include "reeltune.target" (set $target "component" "catalog")) }}
{{- $_ := set $env "TRAINER_SCHEDULER_TARGET" (include "reeltune.target" (set $target "component" "scheduler")) }}
{{- $_ := set $env "TRAINER_NATS_URL" .root.Values.nats.url }}
{{- $_ := set $env "TRAINER_DATA_DIR" "/data" }}
{{- $_ := set $env "TRAINER_DRAIN_GRACE_SECONDS" (.pool.drainGraceSeconds | toString) }}
{{- if .pool.edgeCa }}
{{- $_ := set $env "TRAINER_TLS_CA" (printf "/run/reeltune/tls/%s" .pool.edgeCa) }}
{{- end }}
{{- if eq .pool.deviceClass "CPU" }}
{{- $_ := set $env "TRAINER_DEVICE" "cpu" }}
{{- end }}
{{- end }}
{{- range $name, $value := .settings }}
{{- $_ := set $env $name ($value | toString) }}
{{- end }}
{{- range $name := keys $env | sortAlpha }}
- { name: {{ $name }}, value: {{ get $env $name | quote }} }
{{- end }}
{{- end }}

{{- define "reeltune.probes" -}}
startupProbe:
  httpGet: { path: /ready, port: health }
  periodSeconds: 2
  failureThreshold: 90
readinessProbe:
  httpGet: { path: /ready, port: health }
  periodSeconds: 5
  timeoutSeconds: 3
livenessProbe:
  httpGet: { path: /live, port: health }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{- define "reeltune.ports" -}}
- { name: grpc, containerPort: {{ include "reeltune.port" . }} }
- { name: metrics, containerPort: 9090 }
- { name: health, containerPort: 8081 }
{{- end }}

{{/* Files of a service: its secret settings, its keys if it signs, its certificate. */}}
{{- define "reeltune.mounts" -}}
- { name: settings, mountPath: /run/reeltune/settings, readOnly: true }
- { name: tls, mountPath: /run/reeltune/tls, readOnly: true }
{{- if has .component (list "auth" "scheduler") }}
- { name: keys, mountPath: /run/reeltune/keys, readOnly: true }
{{- end }}
- { name: tmp, mountPath: /tmp }
{{- end }}

{{- define "reeltune.volumes" -}}
- name: settings
  secret: { secretName: {{ include "reeltune.secret" (dict "root" .root "name" (printf "%s-settings" .component)) }}, defaultMode: 0440 }
- name: tls
  secret: { secretName: {{ include "reeltune.secret" (dict "root" .root "name" (printf "%s-tls" .component)) }}, defaultMode: 0440 }
{{- if has .component (list "auth" "scheduler") }}
- name: keys
  secret: { secretName: {{ include "reeltune.secret" (dict "root" .root "name" (printf "%s-keys" .component)) }}, defaultMode: 0440 }
{{- end }}
- { name: tmp, emptyDir: { sizeLimit: 1Gi } }
{{- end }}
