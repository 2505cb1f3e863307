{{- define "coffer.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}
{{- end }}

{{- define "coffer.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "coffer.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "coffer.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "coffer.annotations" -}}
{{- with .Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "coffer.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "coffer.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "coffer.fullname" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/* The headless service of all storage pods. */}}
{{- define "coffer.storageService" -}}{{ include "coffer.fullname" . }}-storage{{- end }}
{{- define "coffer.etcdService" -}}{{ include "coffer.fullname" . }}-etcd{{- end }}
{{- define "coffer.domain" -}}{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}{{- end }}

{{- define "coffer.authSecret" -}}
{{- if .Values.auth.existingSecret }}{{ .Values.auth.existingSecret }}
{{- else -}}
{{- $_ := required "set auth.existingSecret to a secret with access-key, secret-key and cluster-secret, or auth.accessKey" .Values.auth.accessKey -}}
{{- $_ := required "set auth.secretKey, or auth.existingSecret" .Values.auth.secretKey -}}
{{- $_ := required "set auth.clusterSecret, a long random text, or auth.existingSecret" .Values.auth.clusterSecret -}}
{{ include "coffer.fullname" . }}-auth
{{- end }}
{{- end }}

{{- define "coffer.tlsSecret" -}}
{{- if .Values.tls.existingSecret }}{{ .Values.tls.existingSecret }}
{{- else if .Values.tls.certManager.enabled }}{{ include "coffer.fullname" . }}-tls
{{- else }}{{ fail "tls.enabled: set tls.existingSecret, or tls.certManager.enabled" }}
{{- end }}
{{- end }}

{{- define "coffer.etcdTlsSecret" -}}
{{- if not .Values.etcd.internal.enabled }}{{ .Values.etcd.tlsSecret }}
{{- else if .Values.etcd.internal.tls.enabled }}
{{- if .Values.etcd.internal.tls.existingSecret }}{{ .Values.etcd.internal.tls.existingSecret }}
{{- else if .Values.tls.certManager.enabled }}{{ include "coffer.fullname" . }}-etcd-tls
{{- else }}{{ fail "etcd.internal.tls.enabled: set etcd.internal.tls.existingSecret, or tls.certManager.enabled" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "coffer.etcdEndpoints" -}}
{{- if .Values.etcd.internal.enabled }}
{{- if .Values.etcd.endpoints }}{{ fail "etcd.endpoints are set: set etcd.internal.enabled to false" }}{{ end }}
{{- $scheme := ternary "https" "http" .Values.etcd.internal.tls.enabled }}
{{- $urls := list }}
{{- range $i := until (int .Values.etcd.internal.replicas) }}
{{- $urls = append $urls (printf "%s://%s-%d.%s.%s:2379" $scheme (include "coffer.etcdService" $) $i (include "coffer.etcdService" $) (include "coffer.domain" $)) }}
{{- end }}
{{- join "," $urls }}
{{- else }}
{{- if not .Values.etcd.endpoints }}{{ fail "set etcd.endpoints, or etcd.internal.enabled" }}{{ end }}
{{- join "," .Values.etcd.endpoints }}
{{- end }}
{{- end }}

{{/* What every process of Coffer is told. */}}
{{- define "coffer.env" -}}
- name: COFFER_ETCD
  value: {{ include "coffer.etcdEndpoints" . | quote }}
- name: COFFER_CLUSTER_NAME
  value: {{ .Values.cluster.name | quote }}
{{- if .Values.tls.enabled }}
- name: COFFER_TLS_DIR
  value: /etc/coffer/tls
{{- end }}
- name: COFFER_CLUSTER_SECRET_FILE
  value: /etc/coffer/auth/cluster-secret
{{- if include "coffer.etcdTlsSecret" . }}
- name: COFFER_ETCD_CA
  value: /etc/coffer/etcd/ca.crt
- name: COFFER_ETCD_CERT
  value: /etc/coffer/etcd/tls.crt
- name: COFFER_ETCD_KEY
  value: /etc/coffer/etcd/tls.key
{{- end }}
{{- if .Values.etcd.user }}
- name: COFFER_ETCD_USER
  value: {{ .Values.etcd.user | quote }}
- name: COFFER_ETCD_PASSWORD_FILE
  value: /etc/coffer/etcd-password/password
{{- end }}
{{- with .Values.log.filter }}
- name: COFFER_LOG
  value: {{ . | quote }}
{{- end }}
- name: COFFER_LOG_FORMAT
  value: {{ .Values.log.format }}
- name: COFFER_ENDPOINT
  value: http://{{ include "coffer.fullname" . }}-gateway-admin.{{ include "coffer.domain" . }}:9001
{{- end }}

{{- define "coffer.mounts" -}}
- {name: auth, mountPath: /etc/coffer/auth, readOnly: true}
{{- if .Values.tls.enabled }}
- {name: tls, mountPath: /etc/coffer/tls, readOnly: true}
{{- end }}
{{- if include "coffer.etcdTlsSecret" . }}
- {name: etcd-tls, mountPath: /etc/coffer/etcd, readOnly: true}
{{- end }}
{{- if .Values.etcd.user }}
- {name: etcd-password, mountPath: /etc/coffer/etcd-password, readOnly: true}
{{- end }}
{{- end }}

{{- define "coffer.volumes" -}}
- name: auth
  secret: {secretName: {{ include "coffer.authSecret" . }}, defaultMode: 0440}
{{- if .Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "coffer.tlsSecret" . }}
    defaultMode: 0440
    items:
      - {key: ca.crt, path: ca.crt}
      - {key: tls.crt, path: node.crt}
      - {key: tls.key, path: node.key}
{{- end }}
{{- if include "coffer.etcdTlsSecret" . }}
- name: etcd-tls
  secret: {secretName: {{ include "coffer.etcdTlsSecret" . }}, defaultMode: 0440}
{{- end }}
{{- if .Values.etcd.user }}
- name: etcd-password
  secret: {secretName: {{ required "etcd.user: set etcd.passwordSecret" .Values.etcd.passwordSecret }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{/* What pods of every kind have. Called with (dict "root" $ "part" values "component" name). */}}
{{- define "coffer.podMeta" -}}
labels:
  {{- include "coffer.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
  {{- with .part.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .part.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "coffer.podSpec" -}}
serviceAccountName: {{ include "coffer.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Nodes of all pools. */}}
{{- define "coffer.nodes" -}}
{{- $sum := 0 }}{{ range .Values.storage.pools }}{{ $sum = add $sum (int .replicas) }}{{ end }}{{ $sum }}
{{- end }}

{{/* Storage nodes that may be away at a time: one, if half of a stripe and one more slot remain. A stripe has as many slots of a node as
all nodes can give, up to 16 in all. */}}
{{- define "coffer.mayBeAway" -}}
{{- $nodes := int (include "coffer.nodes" .) }}
{{- $drives := 16 }}
{{- range .Values.storage.pools }}{{ if gt (int .replicas) 0 }}{{ $drives = min $drives (int .drives) }}{{ end }}{{ end }}
{{- $each := 1 }}
{{- if and (gt $nodes 0) (le $nodes 16) }}{{ $each = min $drives (div 16 $nodes) }}{{ end }}
{{- $width := min 16 (mul $nodes $each) }}
{{- $spare := sub $width (add (div $width 2) 1) }}
{{- ternary 1 0 (le (int64 $each) (int64 $spare)) }}
{{- end }}
