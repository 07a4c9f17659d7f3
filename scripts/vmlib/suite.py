def run(o,d): pass
