"""From a job to files that others load.

Reading order:

    published        fetch the last version of a job and write everything that was asked for
    peft_directory   one adapter as PEFT has it: factors, head, configuration
    model_card       its README.md: what it is, whose scores they are, how to load it
"""
