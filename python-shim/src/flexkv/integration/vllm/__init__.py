"""The name under which vLLM (0.18 and later) looks for FlexKV."""
