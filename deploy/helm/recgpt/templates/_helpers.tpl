{{- define "recgpt.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end -}}
{{- end }}

{{- define "recgpt.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: recall
{{- end }}

{{- define "recgpt.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "recgpt.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "recgpt.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "recgpt.name" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end -}}
{{- end }}

{{- define "recgpt.claim" -}}
{{ .Values.bundle.pvc.existingClaim | default (printf "%s-bundles" (include "recgpt.name" .)) }}
{{- end }}

{{/* The profile "restricted" of pod security: what a pod and each of its containers say for it. */}}
{{- define "recgpt.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "recgpt.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The store's URL and the secrets: what the service and the refresh have in common. */}}
{{- define "recgpt.environment" -}}
{{- with .Values.secret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
env:
  - {name: RECGPT_ARTIFACTS, value: /data/artifacts}
  {{- with .Values.store }}
  - {name: RECGPT_STORE, value: {{ . | quote }}}
  {{- end }}
  {{- if .Values.compiledCache.enabled }}
  - {name: RECGPT_CACHE_DIR, value: /cache/recgpt}
  {{- end }}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "recgpt.scratch" -}}
- name: tmp
  emptyDir: {}
{{- if .Values.compiledCache.enabled }}
- name: cache
  emptyDir: {sizeLimit: {{ .Values.compiledCache.size }}}
{{- end }}
{{- end }}

{{- define "recgpt.scratchMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.compiledCache.enabled }}
- {name: cache, mountPath: /cache}
{{- end }}
{{- end }}
