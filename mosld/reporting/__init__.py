"""From the files of finished runs to tables, figures and numbers; nothing is trained or scored."""
