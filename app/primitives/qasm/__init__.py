"""OpenQASM 3: from untrusted text to a sanitised circuit. One meaning per program."""
