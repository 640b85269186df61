{{- define "espalier.name" -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "espalier.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "espalier.name" .) -}}
{{- end -}}

{{- define "espalier.selector" -}}
app.kubernetes.io/name: espalier
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "espalier.labels" -}}
{{ include "espalier.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: espalier
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* What the operator reads at start; changing it restarts the pod through the checksum annotation. */ -}}
{{- define "espalier.settings" -}}
{{- $s3 := dict -}}
{{- with .Values.s3.endpointUrl }}{{ $_ := set $s3 "endpointUrl" . }}{{ end -}}
{{- with .Values.s3.region }}{{ $_ := set $s3 "region" . }}{{ end -}}
{{- dict "prometheus" .Values.prometheus "s3" $s3 | toPrettyJson -}}
{{- end -}}
