"""FlexKV under every version of vLLM: what each asks for, and what was seen to work."""
