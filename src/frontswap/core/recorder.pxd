from frontswap.core.hooks cimport Hooks
